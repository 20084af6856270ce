"""Prints the numbers of the page on protocols that no lens-fv command prints; see "How these numbers were made" there."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

import lens_fv as fv
from lens_fv.finetuning import FinetuneConfig
from lens_fv.finetuning.examples import TokenizerEncoder, collated, training_examples
from lens_fv.finetuning.regularizers.penalties import fisher_information
from lens_fv.heads import rank_heads, rank_instruction_heads
from lens_fv.heads.competence import competence
from lens_fv.knowledge import DistillConfig, distill, generate_transfer_set, load_entities, load_transfer_set
from lens_fv.model.plain import plain_model
from lens_fv.tasks import load_task, split_pairs

MODEL = fv.load_model("smollm2-135m")


def splits(path: Path) -> dict[str, float]:
    """Share of test pairs whose reverse is in the training part: rows split at random as theirs are, and by facts (seed 0)."""
    task = load_task(path)
    rows = list(task.pairs)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    n_test = round(0.21 * len(rows))
    n_valid = round(0.09 * len(rows))
    by_rows = [rows[i] for i in order[:n_test]], [rows[i] for i in order[n_test + n_valid :]]
    split = split_pairs(task, seed=0)

    def leaked(test, train) -> float:
        known = {(word, pair.input) for pair in train for word in pair.outputs}
        return sum(any((pair.input, word) in known for word in pair.outputs) for pair in test) / len(test)

    return {"rows": leaked(*by_rows), "facts": leaked(split.test, split.train), "pairs": len(rows)}


def bias() -> float:
    """The longest bias of an output projection."""
    zero = torch.zeros(MODEL.n_heads, MODEL.d_head)
    return max(float(MODEL.head_write(layer, zero, include_bias=True).norm()) for layer in MODEL.attention_layers)


def bos() -> dict[str, list[float]]:
    """10-shot first-token accuracy on present-past's validation part, without a BOS token and with one."""
    task, accuracies = load_task("present-past"), {}
    for name, prepend in (("without", False), ("with", True)):
        MODEL.prepend_bos = prepend
        scored = competence(MODEL, task)
        accuracies[name] = list(scored.accuracy)
    MODEL.prepend_bos = False
    return accuracies


def replacing_and_adding() -> dict[str, float]:
    """Instruction heads of present-past, outputs replaced or added: shared heads of the ten strongest, order of all."""
    task, prompts = load_task("present-past"), {"n_clean": 50, "n_trials": 12}
    one, two = (rank_instruction_heads(MODEL, task, mode=mode, **prompts) for mode in ("replace", "add"))
    order = torch.stack([one.mean.flatten(), two.mean.flatten()]).argsort(dim=1).argsort(dim=1).double()
    shared = len(set(one.heads(10)) & set(two.heads(10)))
    return {"shared": shared, "spearman": float(torch.corrcoef(order)[0, 1])}


def means_of_25() -> dict[str, float]:
    """Present-past's heads, means over 100 clean prompts or 25: shared heads of the ten strongest, cosine of the vectors."""
    task = load_task("present-past")
    one, two = (rank_heads(MODEL, task, n_clean=n) for n in (100, 25))
    vectors = [fv.extract(MODEL, task, ranking, layer=9).vector for ranking in (one, two)]
    return {"shared": len(set(one.heads(10)) & set(two.heads(10))), "cosine": float(torch.cosine_similarity(*vectors, dim=0))}


def clipping() -> dict[str, float]:
    """Length of what clipping at 1 changes in an update of one entity, in lengths of the update that is not clipped."""
    (entity,) = load_entities("invented")[:1]
    transfer = generate_transfer_set(MODEL, [entity], n_sentences=5, seed=0)
    ratios = {}
    for name, settings in (("usual", DistillConfig.for_entities(1)), ("released", DistillConfig.released())):
        clipped, free = (distill(MODEL, [entity], transfer, replace(settings, max_grad_norm=clip)) for clip in (1.0, None))
        apart = sum(float((clipped.change(n) - free.change(n)).square().sum()) for n in free.names)
        ratios[name] = (apart / sum(float(free.change(n).square().sum()) for n in free.names)) ** 0.5
    return ratios


def mentions(path: Path) -> dict[str, dict[str, int]]:
    """Sentences kept of the published Entity Inferences rows, and dropped."""
    sets = {tokens: load_transfer_set(path, target_tokens=tokens) for tokens in ("after_mention", "all")}
    return {tokens: {"kept": len(transfer), **transfer.dropped} for tokens, transfer in sets.items()}


def fisher() -> dict[str, float]:
    """The Fisher information of fresh low-rank updates, summed: of 64 single examples, in those of batches of 8 and of 32."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    trained = get_peft_model(plain_model(MODEL), LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16))
    end = MODEL.tokenizer.eos_token_id
    reader = TokenizerEncoder(MODEL.name, MODEL.tokenizer, MODEL.n_ctx, MODEL.prepend_bos)
    examples = training_examples(reader, load_task("antonym"), FinetuneConfig(n_examples=64), end=end)

    def total(size: int, **options) -> float:
        batches = [collated(examples[at : at + size], 0) for at in range(0, len(examples), size)]
        return sum(float(f.sum()) for f, _ in fisher_information(trained, batches, **options).values())

    by_example = total(32, fisher="example")
    return {f"batches of {size}": by_example / total(size) for size in (8, 32)}


MEASURES = {
    "bias": bias,
    "bos": bos,
    "replace or add": replacing_and_adding,
    "means of 25": means_of_25,
    "clip": clipping,
    "fisher": fisher,
}
if __name__ == "__main__":
    published, antonym = map(Path, sys.argv[1:3])
    measures = {"splits": partial(splits, antonym), "mentions": partial(mentions, published), **MEASURES}
    for name in sys.argv[3:] or measures:
        sys.stdout.write(json.dumps({name: measures[name]()}) + "\n")
        sys.stdout.flush()
