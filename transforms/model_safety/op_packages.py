"""Lists the Python packages that register ops for TensorFlow, with the names of these ops.

For tensorflow-text 2.21.1 and ydf-tf 2.21.0.post1, the names come from TensorFlow's registry after each was imported.
For all others, they come from the REGISTER_OP lines of the sources:
https://github.com/tensorflow/text, https://github.com/google/yggdrasil-decision-forests,
https://github.com/tensorflow/addons, https://github.com/tensorflow/io,
https://github.com/tensorflow/recommenders-addons, https://github.com/google-research/google-research/tree/master/scann,
https://github.com/tensorflow/tensorflow/tree/v2.17.0/tensorflow/compiler/tf2tensorrt/ops
"""

import fnmatch
from typing import NamedTuple


class Package(NamedTuple):
    """A package that registers ops.

    Attributes:
        name: The name for `pip install`.
        module: The module that registers the ops when it is imported. It is empty if no release works with the
            TensorFlow that keyjoin needs. This was tested: the import fails, or registers nothing.
        ops: The names of the ops, as patterns separated by spaces.
        computes: Whether the ops only compute, according to their sources. Ops that read or write files are listed in
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
    # These ops were part of TensorFlow Decision Forests before, so the models that it exported have them, too.
    Package("ydf-tf", "ydf_tf", "SimpleML*", computes=True),
    Package("scann", "", "Scann>* Addons>Scann*"),
    Package("tensorflow-addons", "", "Addons>*"),
    Package("tensorflow-io", "", "IO>*"),
    Package("tensorflow-recommenders-addons", "", "TFRA>*"),
    Package("TensorRT", "", "TRTEngineOp CreateTRTResourceHandle InitializeTRTResource GetCalibrationDataOp"),
)


def find_package(op: str) -> Package | None:
    """Returns the package that registers an op; None if no listed package does.

    >>> find_package("TFText>ByteSplitWithOffsets").name, find_package("Addons>ScannSearch").name, find_package("Add")
    ('tensorflow-text', 'scann', None)
    """
    return next((p for p in PACKAGES if any(fnmatch.fnmatchcase(op, name) for name in p.ops.split())), None)
