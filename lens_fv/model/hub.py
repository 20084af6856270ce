"""Quick look-up of a name on the Hugging Face Hub."""

from pathlib import Path

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

from lens_fv.core.choices import nearest
from lens_fv.errors import LensFVError
from lens_fv.model.registry import DEFAULT_MODELS

HUB_SECONDS = 5


def find_on_hub(name: str, revision: str | None) -> tuple[str, str | None]:
    """Return the name and commit if the Hub knows it, or a folder of earlier downloads if the Hub is unreachable.

    A short request comes first, because transformers and TransformerLens would retry for minutes without a network.

    Raises:
        LensFVError: neither is found; the message lists the default models and gives the Hub's answer.
    """
    defaults = ", ".join(DEFAULT_MODELS) + nearest(name, DEFAULT_MODELS)
    known = f"default models: {defaults}; no folder {Path(name).expanduser().absolute()}"
    try:
        return name, HfApi().model_info(name, revision=revision, timeout=HUB_SECONDS).sha
    except HFValidationError as error:
        raise LensFVError(f"no model {name!r} ({known}; and a Hub name reads owner/model)") from error
    except RevisionNotFoundError as error:
        raise LensFVError(f"model {name!r} has no revision {revision!r} on the Hugging Face Hub") from error
    except RepositoryNotFoundError as error:
        raise LensFVError(
            f"no model {name!r} ({known}; the Hugging Face Hub has none of that name that you may read)"
        ) from error
    except Exception as error:  # a network error of a class that depends on the Hub client's version
        config = try_to_load_from_cache(name, "config.json", revision=revision)
        if isinstance(config, str):
            return str(Path(config).parent), Path(config).parent.name
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LensFVError(f"no model {name!r} ({known}; the Hugging Face Hub could not be reached: {reason})") from error
