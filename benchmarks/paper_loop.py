"""The loop that the paper's code has, written anew, for benchmarks/training_loop.py.

Images are decoded and augmented one by one with PIL in a DataLoader (one worker and pinned memory
on CUDA, none on a CPU), every step reads its loss and its hits back, test images are shuffled too,
and weights are contiguous float32. Its progress bar and its files are left out.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from greenlab.config import Config
from greenlab.data import Data, Split
from greenlab.network import build_model
from greenlab.workload import seed_everything


class Pictures(Dataset[tuple[Tensor, int]]):
    """A split as PIL pictures, which is how torchvision's data sets hand out theirs."""

    def __init__(self, split: Split, transform: transforms.Compose) -> None:
        self._pixels = split.images.permute(0, 2, 3, 1).contiguous().numpy()
        self._labels = split.labels.tolist()
        self._transform = transform

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, at: int) -> tuple[Tensor, int]:
        return self._transform(Image.fromarray(self._pixels[at])), self._labels[at]


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperLoop:
    """Model, optimiser and loaders of one run."""

    device: torch.device
    model: nn.Module
    optimiser: torch.optim.Optimizer
    train_loader: Iterable[tuple[Tensor, Tensor]]
    test_loader: Iterable[tuple[Tensor, Tensor]]

    def train(self) -> float:
        """One epoch; returns the mean of its steps' losses."""
        self.model.train()
        return self._go_over(self.train_loader, learns=True)

    @torch.no_grad()
    def test(self) -> float:
        """One pass over the test images; returns the mean of its steps' losses."""
        self.model.eval()
        return self._go_over(self.test_loader, learns=False)

    def _go_over(self, loader: Iterable[tuple[Tensor, Tensor]], *, learns: bool) -> float:
        criterion = nn.CrossEntropyLoss()
        summed, num_hits, num_seen, num_steps = 0.0, 0, 0, 0
        for inputs, targets in loader:
            images, labels = inputs.to(self.device), targets.to(self.device)
            if learns:
                self.optimiser.zero_grad()
            scores = self.model(images)
            loss = criterion(scores, labels)
            if learns:
                loss.backward()
                self.optimiser.step()
            summed += loss.item()
            num_hits += scores.max(1)[1].eq(labels).sum().item()
            num_seen += len(labels)
            num_steps += 1
        assert num_hits <= num_seen, "more hits than images"
        return summed / num_steps


def as_the_paper_does(data: Data, *, augment: bool) -> list[object]:
    """The transforms of a picture."""
    size = data.train.images.shape[-1]
    moved = [transforms.RandomCrop(size, padding=4), transforms.RandomHorizontalFlip()]
    return [
        *(moved if augment else []),
        transforms.ToTensor(),
        transforms.Normalize(data.mean, data.std),
    ]


def build_paper_loop(config: Config, data: Data, device: torch.device) -> PaperLoop:
    """The same network, data, optimiser and seed as `build_workload` makes of `config`."""
    seed_everything(config.seed)
    model = build_model(config.model, config.dataset.num_classes).to(device)
    on_cuda = device.type == "cuda"

    def load(split: Split, *, augment: bool) -> DataLoader[tuple[Tensor, int]]:
        return DataLoader(
            Pictures(split, transforms.Compose(as_the_paper_does(data, augment=augment))),
            batch_size=config.batch_size.size,
            shuffle=True,
            num_workers=1 if on_cuda else 0,
            pin_memory=on_cuda,
        )

    return PaperLoop(
        device=device,
        model=model,
        optimiser=torch.optim.SGD(
            model.parameters(),
            lr=config.phase.learning_rate,
            momentum=config.phase.momentum,
            weight_decay=config.phase.weight_decay,
        ),
        train_loader=load(data.train, augment=True),
        test_loader=load(data.test, augment=False),
    )
