"""The table of all methods on digits in docs/results.md: the demo's arms and what they are compared with, over seeds.

python benchmarks/digits_results.py digits
"""

from arms import Arm, Table, command
from sets import CALLS

STUDENT = [("lcm", 1), ("lcm", 2)]
ARMS = {
    "plain": Arm("diffusion"),  # as many steps as SADM, ADT and DDO
    "plain-calls": Arm("diffusion", steps=4.2),  # at least the network calls of every other arm but the student's
    "sadm": Arm("sadm"),
    "sadm-frozen": Arm("sadm", ["--method.mode=frozen"]),
    "adt": Arm("adt"),
    "ddo": Arm("ddo"),
    "add": Arm("add", steps=800 / 300, plan=STUDENT),
    "add-alone": Arm("add", ["--method.adversarial_weight=0"], steps=800 / 300, plan=STUDENT),
}
PLAN = [(scheduler, calls) for scheduler in ("ddim", "dpm") for calls in CALLS] + STUDENT
TABLES = {"digits": Table("digits", ARMS, plan=PLAN)}

if __name__ == "__main__":
    command(__doc__, TABLES)
