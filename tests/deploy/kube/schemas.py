"""Compares manifests with schemas. Runs in the environment of `kubernetes-validate`; one JSON object a line.

Asked: `version` (of Kubernetes), `documents`, `definitions` (a folder of CustomResourceDefinitions, or null). Answered:
a list of sentences, one for each document that is wrong. What has no schema
there is passed over.
"""

import copy
import functools
import json
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate.utils
import yaml

kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)
kubernetes_validate.utils.all_versions = functools.cache(kubernetes_validate.utils.all_versions)
#: Groups of Kubernetes itself.
_BUILT_IN = ("v1", "apps/", "batch/", "policy/", "autoscaling/", "networking.k8s.io/")


def strict(schema: object) -> object:
    """The schema of a custom resource with unknown keys refused, as `kubectl` with a server refuses them."""
    if isinstance(schema, list):
        for each in schema:
            strict(each)
    elif isinstance(schema, dict):
        closed = schema.get("type") == "object" and "properties" in schema
        if closed and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        if schema.get("x-kubernetes-int-or-string"):
            schema.pop("type", None)
        for each in list(schema.values()):
            strict(each)
    return schema


@functools.cache
def definitions(folder: str) -> dict:
    """Validators of the custom resources in `folder`, by apiVersion and kind."""
    found = {}
    for path in Path(folder).glob("*.yaml"):
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]
        for version in spec["versions"]:
            schema = strict(copy.deepcopy(version["schema"]["openAPIV3Schema"]))
            schema["properties"]["metadata"] = {"type": "object"}
            key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
            found[key] = jsonschema.Draft202012Validator(schema)
    return found


def problem(document: dict, version: str, folder: str | None) -> str:
    """What is wrong with one document; empty where nothing is."""
    kind, group = document.get("kind"), document.get("apiVersion")
    if not isinstance(kind, str) or not isinstance(group, str):
        return "a document without its kind or version"
    try:
        if group.startswith(_BUILT_IN):
            kubernetes_validate.utils.validate(document, version, strict=True)
        elif folder and (group, kind) in definitions(folder):
            definitions(folder)[group, kind].validate(document)
    except jsonschema.ValidationError as error:
        return f"{kind}: {'/'.join(map(str, error.absolute_path))}: {error.message[:200]}"
    except kubernetes_validate.utils.SchemaNotFoundError as error:
        return f"{kind}: {error.message}"
    return ""


for line in sys.stdin:
    asked = json.loads(line)
    said = [problem(document, asked["version"], asked["definitions"]) for document in asked["documents"]]
    print(json.dumps([sentence for sentence in said if sentence]), flush=True)
