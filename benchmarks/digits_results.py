"""The table of all methods on digits in docs/results.md: the demo's arms and what they are compared with, over seeds.

python benchmarks/digits_results.py digits
"""

from arms import Arm, Table, command
from sets import CALLS

STUDENT = [("lcm", 1), ("lcm", 2)]
ARMS = {
    "plain": Arm("plain-digits"),  # as many steps as SADM, ADT and DDO
    "plain-calls": Arm("plain-digits", steps=4.2),  # at least the network calls of every other arm but ADD
    "sadm": Arm("sadm-digits"),
    "sadm-frozen": Arm("sadm-digits", ["--method.mode=frozen"]),
    "adt": Arm("adt-digits"),
    "ddo": Arm("ddo-digits"),
    "add": Arm("add-digits", steps=800 / 300, plan=STUDENT),
    "add-alone": Arm("add-digits", ["--method.adversarial_weight=0"], steps=800 / 300, plan=STUDENT),
}
PLAN = [(scheduler, calls) for scheduler in ("ddim", "dpm") for calls in CALLS] + STUDENT
TABLES = {"digits": Table("digits", ARMS, plan=PLAN)}

if __name__ == "__main__":
    command(__doc__, TABLES)
