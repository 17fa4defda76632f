"""What a twin and an examination of VGG-16 cost: ``python -m tests.benchmarks.examination``.

Prints the time of one explanation of a picture of 224 x 224 by ``explain``, and the share of it that goes into copying
the model, comparing its rules, and listening to the first pass: the difference to a pass that is not listened to.
"""

import contextlib
import statistics
import time

import torch
from torch import nn

from zennit_neon import NeuralizedKMeans
from zennit_neon.attributors.session import session
from zennit_neon.composites import NeonVGG
from zennit_neon.explanation import explain
from zennit_neon.instrumentation.examination import Examination
from zennit_neon.vision import load_vgg16


def seconds(run, repeats=7):
    """Median time of a call, after one to warm up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main():
    """Print the table."""
    torch.manual_seed(0)
    network = load_vgg16()
    trunk = nn.Sequential(network.model.features, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    images = torch.rand(8, 3, 224, 224)
    with torch.no_grad():
        features = trunk(images)
    model, x = nn.Sequential(trunk, NeuralizedKMeans(features[:4]).calibrate(features)), images[:1]

    def whole():
        explain(model, x, composite=NeonVGG(network.low, network.high))

    def attached():
        with session(model, NeonVGG(network.low, network.high)):
            pass

    def registered():
        with NeonVGG(network.low, network.high).context(model):
            pass

    def listened(listening):
        with session(model, NeonVGG(network.low, network.high)) as running, torch.no_grad():
            heard = Examination(running.model, running.composite)
            with heard.listening() if listening else contextlib.nullcontext():
                running.model(torch.rand(1, 3, 32, 32))

    total = seconds(whole)
    preparing = seconds(attached) - seconds(registered)
    listening = seconds(lambda: listened(True)) - seconds(lambda: listened(False))
    print(f"explanation of VGG-16 at 224 x 224    {total:8.3f} s")
    print(f"twin and comparison of rules          {preparing:8.4f} s  {preparing / total:6.2%}")
    print(f"listening to the first pass           {listening:8.4f} s  {listening / total:6.2%}")


if __name__ == "__main__":
    main()
