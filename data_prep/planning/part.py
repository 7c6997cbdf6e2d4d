"""Which units of a plan one machine makes, where several share the work. Pure."""

from dataclasses import dataclass
from itertools import accumulate

from data_prep.planning.plan import Plan, Unit


@dataclass(frozen=True)
class Part:
    """Part `number` of `count`, counted from 0: a stretch of the plan, of about as many bytes as each other part."""

    number: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def units_of(self, plan: Plan) -> list[Unit]:
        """In the order of the plan: neighbours, so that hardly any file is read by two machines."""
        numbers = part_numbers(plan, self.count)
        return [unit for unit, number in zip(plan.units, numbers, strict=True) if number == self.number]


def part_numbers(plan: Plan, count: int) -> list[int]:
    """Of each unit of the plan: the number of the part, of `count`, that it belongs to."""
    sizes = [plan.unit_bytes(unit) for unit in plan.units]
    middles = [end - size / 2 for end, size in zip(accumulate(sizes), sizes, strict=True)]
    num_bytes = sum(sizes)
    return [int(middle * count / num_bytes) for middle in middles]
