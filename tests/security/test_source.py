"""What no line of the project's own code does: load code with data, or have a shell read what a person wrote."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [file for folder in ("src", "benchmarks", "docs", "examples") for file in sorted((ROOT / folder).rglob("*.py"))]
RULES = [ROOT / "Snakefile", *sorted((ROOT / "workflow/rules").glob("*.smk"))]
FORBIDDEN = {
    "eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads",
    "shelve.open", "yaml.unsafe_load", "yaml.full_load", "joblib.load", "pandas.read_pickle", "pd.read_pickle",
    "subprocess.getoutput",
}  # fmt: skip
SAFE_KEYWORDS = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}


def unsafe(code: str) -> list[str]:
    """The calls in a file's code that load code with data, or start a shell."""
    found = []
    for call in (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        keyword, value = SAFE_KEYWORDS.get(name, ("", None))
        if (
            name in FORBIDDEN
            or (keyword and given.get(keyword) != str(value))
            or (name == "yaml.load" and given.get("Loader") not in ("yaml.SafeLoader", "_StudyLoader"))
            or given.get("shell", "False") != "False"
            or given.get("allow_pickle", "False") != "False"
        ):
            found.append(f"line {call.lineno}: {ast.unparse(call)}")
    return found


@pytest.mark.promise("No code is loaded with data, and no shell is started from Python", "law")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_file_loads_code_with_data(file):
    assert unsafe(file.read_text(encoding="utf-8")) == []


def test_the_one_yaml_loader_is_a_safe_one():
    import yaml

    from imbdet.study_yaml import _StudyLoader

    assert issubclass(_StudyLoader, yaml.SafeLoader)
    assert not issubclass(_StudyLoader, yaml.FullLoader)


@pytest.mark.promise("No code is loaded with data, and no shell is started from Python", "law")
@pytest.mark.parametrize(
    "code",
    [
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "np.load(path)",
        "np.lib.format.read_array(file, allow_pickle=True)",
        "pickle.loads(content)",
        "os.system(command)",
        "subprocess.run(command, shell=True)",
        "subprocess.Popen(command, shell=flag)",
        "eval(text)",
        "exec(text)",
    ],
)
def test_each_of_them_would_be_found(code):
    assert len(unsafe(code)) == 1


@pytest.mark.promise("Nothing that a study says is read by a shell", "law")
@pytest.mark.parametrize("file", RULES, ids=lambda file: file.name)
def test_rules_quote_all_that_they_hand_to_a_shell(file):
    commands = [line for line in file.read_text(encoding="utf-8").splitlines() if "python -m imbdet" in line]
    assert len(commands) == file.read_text(encoding="utf-8").count("shell:")
    for command in commands:
        assert all(part.partition("}")[0].endswith(":q") for part in command.split("{")[1:]), command
