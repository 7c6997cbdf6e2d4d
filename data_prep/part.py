"""Which units of a plan one machine makes, where several share the work. Pure."""

from dataclasses import dataclass

from data_prep.plan import Plan, Unit


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
    numbers, done_bytes = [], 0
    for unit in plan.units:
        unit_bytes = plan.unit_bytes(unit)
        numbers.append((2 * done_bytes + unit_bytes) * count // (2 * plan.num_bytes))
        done_bytes += unit_bytes
    return numbers
