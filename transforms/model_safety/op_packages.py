"""Python packages that register ops for TensorFlow, by the names of these ops.

Where the names come from: of tensorflow-text 2.21.1 and ydf-tf 2.21.0.post1, TensorFlow's own registry once each is
imported; of all others the REGISTER_OP lines of their sources:
https://github.com/tensorflow/text, https://github.com/google/yggdrasil-decision-forests,
https://github.com/tensorflow/addons, https://github.com/tensorflow/io,
https://github.com/tensorflow/recommenders-addons, https://github.com/google-research/google-research/tree/master/scann,
https://github.com/tensorflow/tensorflow/tree/v2.17.0/tensorflow/compiler/tf2tensorrt/ops
"""

import fnmatch
from typing import NamedTuple


class Package(NamedTuple):
    """A package with ops.

    Attributes:
        name: What `pip install` takes.
        module: What registers the ops once it is imported; empty if no release of it fits the TensorFlow that keyjoin
            needs, as was tried: importing it fails, or registers nothing.
        ops: Patterns of its ops' names.
        computes: Whether its ops only compute, as their sources say. Those that read or write files are in
            `transforms.model_safety.op_kinds`.
    """

    name: str
    module: str
    ops: str
    computes: bool = False


PACKAGES = (
    Package(
        "tensorflow-text",
        "tensorflow_text",
        """TFText>* CaseFoldUTF8 NormalizeUTF8 NormalizeUTF8WithOffsetsMap FindSourceOffsets ConstrainedSequence
        MaxSpanningTree RougeL PhraseTokenize FastBertNormalize FastWordpieceTokenizeWithOffsets SentenceFragments
        SentenceFragmentsV2 TokenizerFromLogits RegexSplitWithOffsets UnicodeScriptTokenizeWithOffsets
        WhitespaceTokenizeWithOffsets WordpieceTokenizeWithOffsets SplitMergeTokenizeWithOffsets
        Sentencepiece*Op""",
        computes=True,
    ),
    # Also what TensorFlow Decision Forests wrote, whose ops these were before.
    Package("ydf-tf", "ydf_tf", "SimpleML*", computes=True),
    Package("scann", "", "Scann>* Addons>Scann*"),
    Package("tensorflow-addons", "", "Addons>*"),
    Package("tensorflow-io", "", "IO>*"),
    Package("tensorflow-recommenders-addons", "", "TFRA>*"),
    Package("TensorRT", "", "TRTEngineOp CreateTRTResourceHandle InitializeTRTResource GetCalibrationDataOp"),
)


def find_package(op: str) -> Package | None:
    """The package that registers an op, if it is known.

    >>> find_package("TFText>ByteSplitWithOffsets").name, find_package("Addons>ScannSearch").name, find_package("Add")
    ('tensorflow-text', 'scann', None)
    """
    return next((p for p in PACKAGES if any(fnmatch.fnmatchcase(op, name) for name in p.ops.split())), None)
