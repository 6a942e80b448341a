"""LeNet-5: two convolutions find strokes, three fully connected layers name the shape.

LeCun, Bottou, Bengio, Haffner, *Gradient-Based Learning Applied to Document Recognition* (1998).
The CIFAR form takes three colour channels in place of one, ReLU and max-pooling in place of
sigmoids and trainable sub-sampling, joins every map of the second convolution to every map of the
first, and ends in a linear layer in place of radial basis functions.
"""

from collections import OrderedDict

from torch import nn


def lenet(num_classes: int = 10) -> nn.Module:
    """LeNet-5 for 3×32×32 images: 62,006 parameters with 10 classes."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 6, kernel_size=5),  # 6×28×28
            relu1=nn.ReLU(inplace=True),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(6, 16, kernel_size=5),  # 16×10×10
            relu2=nn.ReLU(inplace=True),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(1),  # 16×5×5 = 400
            fc1=nn.Linear(400, 120),
            relu3=nn.ReLU(inplace=True),
            fc2=nn.Linear(120, 84),
            relu4=nn.ReLU(inplace=True),
            fc3=nn.Linear(84, num_classes),
        )
    )
