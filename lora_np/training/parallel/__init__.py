"""Training beyond one process or one plain step.

joint_step.py   the gradients of several batches, or of several processes, make one step
processes.py    several processes, each with its own rows of every batch, and how they talk to each other
recorded.py     a step on a GPU that is recorded once and then started as a whole, from pieces (pieces.py) that read
                batches of few shapes (batches.py)
"""

from .joint_step import joint_gradients
from .processes import Communicator, MPICommunicator, NCCLCommunicator, SoloCommunicator, communicator
from .recorded import RecordedStep

__all__ = [
    "Communicator",
    "MPICommunicator",
    "NCCLCommunicator",
    "RecordedStep",
    "SoloCommunicator",
    "communicator",
    "joint_gradients",
]
