"""Tasks and prompts: word pairs, analogies, templates, splits, and their files."""

from lens_fv.tasks.analogies import Analogy, make_analogies
from lens_fv.tasks.analogy_files import load_analogies
from lens_fv.tasks.encoding import EncodedPrompt, encode_prompt, encode_prompts
from lens_fv.tasks.lists import make_list_task
from lens_fv.tasks.loading import list_tasks, load_instructions, load_task, load_tasks
from lens_fv.tasks.prompts import Prompt, build_prompts, few_shot, zero_shot
from lens_fv.tasks.splits import Split, split_pairs
from lens_fv.tasks.task import Pair, Task
from lens_fv.tasks.templates import TEMPLATES, TODD, ChatTemplate, PromptTemplate, chat_template

__all__ = [
    "TEMPLATES",
    "TODD",
    "Analogy",
    "ChatTemplate",
    "EncodedPrompt",
    "Pair",
    "Prompt",
    "PromptTemplate",
    "Split",
    "Task",
    "build_prompts",
    "chat_template",
    "encode_prompt",
    "encode_prompts",
    "few_shot",
    "list_tasks",
    "load_analogies",
    "load_instructions",
    "load_task",
    "load_tasks",
    "make_analogies",
    "make_list_task",
    "split_pairs",
    "zero_shot",
]
