# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A first function vector
#
# A language model that is shown `big -> small, hot -> cold` goes on with antonyms. Somewhere inside, a few attention heads
# carry the message "this is about antonyms". Added up, what they write is a **function vector**: put into a prompt without
# any examples, it makes the model do the task.
#
# This notebook finds the heads, makes the vector, tests it beside its controls, and then fine-tunes the vector (not the
# model) on 20 word pairs. It is meant to run in a minute or two on a laptop's processor; on first use a small model
# (93 MB) is downloaded.

# %%
import tempfile
from pathlib import Path

import lens_fv as fv
from lens_fv import plotting

# %% [markdown]
# ## A model
#
# `load_model` takes the name of a default model (`fv.list_models()`), the folder of a Hugging Face model, or a name on the
# Hub. `model.tl` is the TransformerLens model behind it, with all of its hooks.

# %%
model = fv.load_model("smollm2-135m")
model

# %% [markdown]
# ## A task
#
# A task is a list of word pairs. `fv.list_tasks()` names the built-in ones; `fv.load_task` also takes a file of your own.
# The pairs are split once: demonstrations and tuning use `train`, every choice is made on `validation`, and `test` is kept
# for the numbers at the end.

# %%
task = fv.load_task("present-past")
split = fv.split_pairs(task, seed=0)
task, split, task.pairs[:3]

# %% [markdown]
# ## Which heads carry it?
#
# Take prompts whose labels are shuffled, so that the model does not know what is wanted. Put one head's *average* output
# over good prompts in its place, and see how much likelier the right answer becomes. That is the head's **indirect effect**.
# All heads of a prompt are tested in a single forward pass, so the ranking is exact.
#
# The settings here are small, to be quick; `rank_heads`' own defaults are those of Todd et al. (2024).

# %%
ranking = fv.rank_heads(model, task, split=split, n_clean=20, n_trials=8, seed=0)
ranking

# %%
plotting.plot_heads(ranking)

# %% [markdown]
# The scale is centred on zero: most heads do nothing. The intervals are over prompts: a head whose interval includes zero
# has not been shown to do anything.

# %%
plotting.plot_top_heads(ranking, 8)

# %% [markdown]
# ## A vector
#
# `extract` adds up what the strongest heads write into the residual stream, and picks the layer after which to add it on the
# validation pairs.

# %%
extracted = fv.extract(model, task, ranking, n_heads=10, split=split)
extracted

# %% [markdown]
# How much does the layer matter? Here is the accuracy on the validation pairs, layer by layer.

# %%
from lens_fv.vectors import sweep_injection

by_layer = sweep_injection(model, task, extracted, scales=[1.0], split=split)
plotting.plot_layers({task.name: by_layer}, chosen={task.name: extracted.layer})

# %% [markdown]
# ## Does it work?
#
# The prompts are now without any example: `Q: walk`, `A:`. Whatever is evaluated stands beside no vector, a prompt with ten
# examples, and a random vector of the same length added in the same place.

# %%
before = fv.evaluate(model, task, {"extracted": extracted}, split=split, max_items=40, seed=0)
before

# %% [markdown]
# ## Twenty pairs of fine-tuning
#
# The model stays frozen; the only thing that learns is the vector. Which of the two layers and which step to keep is decided on
# the validation pairs.

# %%
tuned = fv.tune(model, task, init=extracted, n_pairs=20, layers=(9, 15), learning_rate=0.1, split=split, seed=0)
tuned

# %% [markdown]
# ## Before and after
#
# One more control is worth having: the tuned vector of *another* relation. If that worked as well, the vector would say
# "answer in one word" rather than "past tense".

# %%
other = fv.tune(model, fv.load_task("antonym"), n_pairs=20, layers=15, learning_rate=0.1, steps=20, seed=0)
vectors = {"extracted": extracted, "tuned": tuned}
after = fv.evaluate(model, task, vectors, other=other, split=split, max_items=40, seed=0)
plotting.plot_conditions({task.name: after})

# %% [markdown]
# First tokens can be generous, where several answers begin with the same one. The stricter measure asks for the whole answer.

# %%
plotting.plot_conditions({task.name: after}, measure="exact_match")

# %% [markdown]
# ## Read it as words
#
# Through the final norm and the unembedding a vector becomes a list of tokens. This is a look, not a test: a vector that
# steers well need not decode into anything readable.

# %%
words = task.relation_words
plotting.plot_decoded({name: fv.decode(model, vector, 8, words=words) for name, vector in vectors.items()})

# %% [markdown]
# ## Keep it
#
# A vector is saved with its provenance: model, task, layer, settings, library versions. It is checked when it is loaded, and
# again when it is applied: a vector of another model is refused.

# %%
with tempfile.TemporaryDirectory() as folder:
    file = tuned.save(Path(folder) / "present-past.safetensors")
    again = fv.FunctionVector.load(file)
again.provenance.task, again.layer, bool((again.vector == tuned.vector).all())

# %% [markdown]
# ## Use it
#
# Inside the block every forward pass of the model carries the vector at its last token. So it acts on the first token that
# is generated, and then again on every further one: what comes after the answer need not make sense.

# %%
questions = [f"Q: {word}\nA:" for word in ("dance", "jump", "write")]
plain = model.generate(questions, max_new_tokens=3)
with again.applied(model):
    steered = model.generate(questions, max_new_tokens=3)
list(zip(questions, plain, steered))

# %% [markdown]
# ## Where to go from here
#
# - `lens-fv demo` does all of this for four relations and writes a report.
# - The documentation's page "Your own model and task" shows how to bring both.
# - `model.tl` is an ordinary TransformerLens model: everything that you know of it works here too.
