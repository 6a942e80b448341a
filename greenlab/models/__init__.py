"""Architectures, one builder per file: `def name(num_classes: int = 10) -> nn.Module`.

These are the forms of the networks for 3×32×32 images that the paper studies. torchvision's own
builders expect 224×224 and shrink an image 32-fold: at 32×32, its ResNet18 does a fifteenth of the
paper's work without complaint. A file that builds on torchvision says which parts it replaces; the
others are written out. conf/model/ names the builders, and may name any other importable one.
"""
