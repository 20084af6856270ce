"""Required parts of a TransformerLens model."""

from typing import Any

from lens_fv.errors import LensFVError

NEEDED = ("cfg", "tokenizer", "hooks", "blocks", "ln_final", "unembed")


def check_parts(tl: Any) -> None:
    """Check that a model has the parts of a decoder.

    Raises:
        LensFVError: not a TransformerLens model, or a bridge to an architecture without a required part: a final norm (OPT with
            post-norms), or a single residual stream between blocks (DeepSeek V4 has several).
    """
    missing = [part for part in NEEDED if not hasattr(tl, part)]
    hf = getattr(tl, "original_model", None)
    if missing and hf is None:
        raise LensFVError(
            f"wrap a TransformerLens model: {type(tl).__name__} has no {', '.join(missing)}; "
            "pass a TransformerBridge or HookedTransformer, or use load_model(name)"
        )
    if hf is not None and not missing:
        missing = [part for part in ("ln_final", "unembed") if getattr(getattr(tl, part), "original_component", tl) is None]
    if hf is not None and not missing:
        places = [f"blocks.{layer}.hook_resid_{end}" for layer in range(int(tl.cfg.n_layers)) for end in ("pre", "post")]
        missing = [place for place in places if place not in tl.hook_dict][:1]
    if missing:
        raise LensFVError(
            f"wrap a bridge to {type(hf).__name__}: TransformerLens gives it no {', '.join(missing)}, so its states cannot be "
            "read; take another architecture, or another configuration of this one"
        )
