"""What changes if one part is changed?"""

from lens_fv.patching.edit import Branch, Edit
from lens_fv.patching.run import branch_method, check_engine, open_trunk, run_branches

__all__ = ["Branch", "Edit", "branch_method", "check_engine", "open_trunk", "run_branches"]
