"""What a job will take, from measured figures and list prices: cores, GPUs, network, money."""

from __future__ import annotations

from dataclasses import dataclass

_HOUR_S = 3600.0
_DAY_S = 24 * _HOUR_S


@dataclass(frozen=True)
class Workload:
    """How much there is to do, and in how many days.

    `megabytes` is the mean size of a photo, `cpu_ms` the CPU time to load, decode and send one, and
    `gpu_rate` how many photos one GPU embeds per second.
    """

    photos: int
    days: float
    megabytes: float
    cpu_ms: float
    gpu_rate: float
    dimension: int = 512


@dataclass(frozen=True)
class Prices:
    """In one currency: a vCPU and a GPU with its host per hour, 10,000 reads of the bucket, a gigabyte out of
    the bucket's region, and a gigabyte of storage per month."""

    vcpu_hour: float
    gpu_hour: float
    reads_10k: float
    egress_gb: float
    storage_gb_month: float


@dataclass(frozen=True)
class Item:
    """One line of an estimate: `need` in words, `cost` of the whole job, or per month if `is_monthly`."""

    name: str
    need: str
    cost: float
    is_monthly: bool = False


@dataclass(frozen=True)
class Estimate:
    """`vcpus_per_gpu` is how many cores keep one GPU busy."""

    photos_per_s: float
    vcpus: float
    gpus: float
    vcpus_per_gpu: float
    items: tuple[Item, ...]

    @property
    def cost(self) -> float:
        """Of the job, without what is paid per month."""
        return sum(item.cost for item in self.items if not item.is_monthly)


def figure(value: float, decimals: int) -> str:
    """A number with so many decimals, or with two digits if they would hide it."""
    if 0 < value < 0.001:
        return "<0.001"
    return f"{value:,.{decimals}f}" if value >= 10 ** (1 - decimals) else f"{value:.2g}"


def estimate(job: Workload, prices: Prices) -> Estimate:
    """The arithmetic; nothing here is measured."""
    rate = job.photos / (job.days * _DAY_S)
    vcpu_hours = job.photos * job.cpu_ms / 1000 / _HOUR_S
    gpu_hours = job.photos / job.gpu_rate / _HOUR_S
    gigabytes = job.photos * job.megabytes / 1000
    vectors_gb = job.photos * job.dimension * 4 / 1e9
    vcpus, gpus = rate * job.cpu_ms / 1000, rate / job.gpu_rate
    items = (
        Item("decode", f"{figure(vcpu_hours, 0)} vCPU hours: {figure(vcpus, 1)} vCPUs",
            vcpu_hours * prices.vcpu_hour),
        Item("embed", f"{figure(gpu_hours, 0)} GPU hours: {figure(gpus, 2)} GPUs",
            gpu_hours * prices.gpu_hour),
        Item("read", f"{job.photos:,} objects", job.photos / 10_000 * prices.reads_10k),
        Item("egress", f"{figure(gigabytes, 0)} GB at {figure(rate * job.megabytes / 1000, 2)} GB/s",
            gigabytes * prices.egress_gb),
        Item("vectors", f"{figure(vectors_gb, 0)} GB, per month", vectors_gb * prices.storage_gb_month, True),
    )  # fmt: skip
    return Estimate(rate, vcpus, gpus, job.gpu_rate * job.cpu_ms / 1000, items)
