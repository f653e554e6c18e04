"""`make demo`: the main job from nothing: a service, a training job through it, digits read by HTTP."""

import socket

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.columns import Columns
from rich.console import Console
from rich.text import Text

from service import blocks
from service.client import Client, Digit
from service.data import datasets, sources
from service.progress import follow
from service.running.supervisor import Supervisor
from service.settings import Settings
from service.spec import DatasetSpec

PRESET = "slp-200"
DIGITS = 20
ACCURACY_AT_LEAST = 0.92
RIGHT_AT_LEAST = 18


def run(settings: Settings, *, stay: bool) -> int:
    """Returns the exit status: 0 if the network trained as well as the lecture's and reads the digits."""
    console = Console(stderr=True, highlight=False)
    fetched = sources.fetch(
        "mnist", cache_dir=settings.cache_dir, data_dir=settings.data_dir, report=console.print
    )
    console.print(f"MNIST is in {fetched.folder} (from {fetched.source})")
    with _supervisor(settings).running() as supervisor:
        supervisor.await_ready()
        console.print(f"Numeral is ready at {supervisor.url}")
        with Client(supervisor.url) as client:
            good = _train(client, console) and _read(client, console, settings)
        if stay:
            console.print(
                f"\nOpen [bold cyan]{supervisor.url}[/] in a browser, draw a digit, and have it read.\n"
                "The service stays up, and the README's tour shows what to ask it; Ctrl-C stops it.",
                soft_wrap=True,
            )
            supervisor.wait()
    return 0 if good else 1


def _supervisor(settings: Settings) -> Supervisor:
    """On the usual port, or any free one if that is taken."""
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex((settings.host, settings.port)) == 0:
            settings = settings.model_copy(update={"port": 0})
    return Supervisor(settings)


def _train(client: Client, console: Console) -> bool:
    console.print(f"\nTraining {PRESET}: 784-32-10, full batch, Adam, 200 iterations (the lecture's first).")
    job = follow(client, client.jobs.create(preset=PRESET).id, console)
    if job.state != "succeeded":
        console.print(f"[red]The job {job.state}[/]: {job.error.detail if job.error else ''}")
        return False
    accuracy = job.metrics["test_accuracy"]
    console.print(
        f"Test accuracy {accuracy:.2%} (the lecture's run: 92.39 %), {job.model_id}",
        soft_wrap=True,
    )
    return accuracy >= ACCURACY_AT_LEAST


def _read(client: Client, console: Console, settings: Settings) -> bool:
    data = datasets.load(DatasetSpec(), cache_dir=settings.cache_dir, data_dir=settings.data_dir)
    images = [image.reshape(28, 28) for image in data.test_inputs[:DIGITS]]
    labels = [int(label) for label in data.test_targets[:DIGITS]]
    answer = client.predict([Image.fromarray(image) for image in images])
    right = sum(digit.label == label for digit, label in zip(answer.predictions, labels, strict=True))
    console.print(f"\nThe first {DIGITS} test digits, posted as PNG, and what came back:")
    colours = console.color_system is not None
    each = zip(images, labels, answer.predictions, strict=True)
    pictures = [_picture(image, label, digit, colours) for image, label, digit in each]
    console.print(Columns(pictures, padding=(0, 2)))
    console.print(f"{right} of {DIGITS} right.")
    return right >= RIGHT_AT_LEAST


def _picture(image: NDArray[np.uint8], label: int, digit: Digit, colours: bool) -> Text:
    """A digit in half-blocks, fourteen wide, over its label and the answer; in shades of grey, or of ink
    where the output has no colours."""
    small = np.asarray(Image.fromarray(image).resize((14, 14), Image.Resampling.BOX))
    drawn = blocks.picture(small.tolist(), colours=colours)
    mark, style = ("✓", "green") if digit.label == label else ("✗", "bold red")
    return Text("\n").join([drawn, Text(f"{label} read as {digit.label} {mark}".center(14), style)])
