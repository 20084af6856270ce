"""What else would write, replace or teach the task?"""

from lens_fv.kinds.head_weights import HeadWeights, learn_head_weights
from lens_fv.kinds.states import mean_state, task_state

__all__ = ["HeadWeights", "learn_head_weights", "mean_state", "task_state"]
