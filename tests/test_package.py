import subprocess
import sys

import bertcls


def test_every_public_name_can_be_imported():
    assert len(bertcls.__all__) > 20
    for name in bertcls.__all__:
        assert getattr(bertcls, name).__name__ == name
    assert set(bertcls.__all__) <= set(dir(bertcls))


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(bertcls, "no_such_name")


def test_importing_bertcls_registers_its_model_type():
    code = (
        "import sys, bertcls\n"
        "from transformers import AutoConfig\n"
        "print(type(AutoConfig.for_model('bertcls')).__name__, 'datasets' in sys.modules, 'evaluate' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["BertClsConfig", "False", "False"]
