"""What a person reads for each typical mistake: the whole message, word for word."""

import pytest

from picker.config import load_config
from picker.errors import ConfigError
from tests.support.config_samples import HEAD

MISTAKES = {
    "wrong kind": (
        "apiVersion: v1\nkind: ConfigMap\n",
        'epp.yaml:2: kind: "ConfigMap" is not a configuration of picker; write EndpointPickerConfig',
    ),
    "version too new": (
        "apiVersion: llm-d.ai/v1\nkind: EndpointPickerConfig\n",
        'epp.yaml:1: apiVersion: version "llm-d.ai/v1" is not supported; write llm-d.ai/v1alpha1',
    ),
    "no version": (
        "kind: EndpointPickerConfig\n",
        'epp.yaml:1: required field "apiVersion" is missing; add apiVersion: llm-d.ai/v1alpha1',
    ),
    "not a mapping": ("- a\n- b\n", "epp.yaml:1: expected a mapping, got a list"),
    "empty": ("# nothing\n", "epp.yaml: is empty; write a mapping, or leave the file out"),
    "tab": (
        HEAD + "plugins:\n\t- type: queue-scorer\n",
        "epp.yaml:4: is not valid YAML: found character that cannot start any token; "
        "indent with spaces, not tabs, and quote values that begin with @, ` or %",
    ),
    "misspelt section": (
        HEAD + "plugin:\n- type: queue-scorer\n",
        'epp.yaml:3: plugin: unknown field; did you mean "plugins"?',
    ),
    "section twice": (
        HEAD + "plugins: []\nplugins: []\n",
        "epp.yaml:4: 'plugins' is written twice; the first is on line 3; remove one",
    ),
    "mapping for list": (
        HEAD + "plugins:\n  type: queue-scorer\n",
        "epp.yaml:3: plugins: expected a list, got a mapping",
    ),
    "no type": (
        HEAD + "plugins:\n- name: mine\n",
        'epp.yaml:4: plugins[0]: required field "type" is missing; add type',
    ),
    "misspelt type": (
        HEAD + "plugins:\n- type: queue-scorer\n- type: prefix-cache-scorrer\n",
        'epp.yaml:5: plugins[1].type: unknown plugin type "prefix-cache-scorrer"; did you mean "prefix-cache-scorer"?',
    ),
    "type not supported yet": (
        HEAD + "plugins:\n- type: disagg-profile-handler\n",
        'epp.yaml:4: plugins[0].type: plugin type "disagg-profile-handler" is known, but picker does not run it; '
        "use single-profile-handler with decode-filter: prefill and decode of a request have one endpoint",
    ),
    "misspelt parameter": (
        HEAD + "plugins:\n- type: load-aware-scorer\n  parameters:\n    treshold: 8\n",
        'epp.yaml:6: plugins[0].parameters.treshold: unknown field; did you mean "threshold"?',
    ),
    "parameter beside parameters": (
        HEAD + "plugins:\n- type: load-aware-scorer\n  threshold: 8\n",
        "epp.yaml:5: plugins[0].threshold: unknown field; use one of: name, parameters, type",
    ),
    "parameter of a plugin without": (
        HEAD + "plugins:\n- type: queue-scorer\n  parameters: {threshold: 8}\n",
        "epp.yaml:5: plugins[0].parameters.threshold: unknown field; remove it",
    ),
    "text for a number": (
        HEAD + "plugins:\n- type: load-aware-scorer\n  parameters:\n    threshold: '8'\n",
        "epp.yaml:6: plugins[0].parameters.threshold: expected a whole number, got text",
    ),
    "number for text": (
        HEAD
        + "plugins:\n- type: label-selector-filter\n  parameters:\n    matchLabels:\n      zone: a\n      gen: 3\n",
        'epp.yaml:8: plugins[0].parameters.matchLabels.gen: expected text, got a whole number; quote it: "3"',
    ),
    "truth for text": (
        HEAD + "plugins:\n- type: by-label\n  parameters: {label: x, validValues: [yes]}\n",
        'epp.yaml:5: plugins[0].parameters.validValues[0]: expected text, got true or false; quote it: "true"',
    ),
    "out of range": (
        HEAD + "plugins:\n- type: prefix-cache-affinity-filter\n  parameters:\n    affinityThreshold: 80\n",
        "epp.yaml:6: plugins[0].parameters.affinityThreshold: 80 is out of range; write at most 1.0",
    ),
    "no such choice": (
        HEAD + "plugins:\n- type: session-affinity-scorer\n  parameters: {strategy: session_ids}\n",
        'epp.yaml:5: plugins[0].parameters.strategy: "session_ids" is not a valid value; did you mean "session_id"?',
    ),
    "no such operator": (
        HEAD + "plugins:\n- type: label-selector-filter\n  parameters:\n    matchExpressions:\n"
        "    - key: a\n      operator: Has\n",
        'epp.yaml:8: plugins[0].parameters.matchExpressions[0].operator: "Has" is not a valid value; '
        "use one of: DoesNotExist, Exists, In, NotIn",
    ),
    "operator without values": (
        HEAD + "plugins:\n- type: label-selector-filter\n  parameters:\n    matchExpressions:\n"
        "    - {key: a, operator: In}\n",
        "epp.yaml:7: plugins[0].parameters.matchExpressions[0]: operator In needs values",
    ),
    "selector without conditions": (
        HEAD + "plugins:\n- type: label-selector-filter\n",
        "epp.yaml:4: plugins[0].parameters: selects every endpoint; give matchLabels or matchExpressions",
    ),
    "text that is no header name": (
        HEAD + "plugins:\n- type: session-affinity-scorer\n  parameters: {headerName: 'x session'}\n",
        "epp.yaml:5: plugins[0].parameters: headerName is no header name of at most 64 characters",
    ),
    "latency predictor": (
        HEAD + "plugins:\n- type: prefix-cache-affinity-filter\n  parameters: {ttftSource: latencyPredictor}\n",
        "epp.yaml:5: plugins[0].parameters: prefix-cache-affinity-filter asks no latency predictor; "
        "use ttftSource prefillThroughput",
    ),
    "bare number for a duration": (
        HEAD + "plugins:\n- type: metrics-data-source\n  parameters:\n    interval: 5\n",
        "epp.yaml:6: plugins[0].parameters.interval: expected a duration such as 50ms or 2s",
    ),
    "unit that is none": (
        HEAD + "flowControl:\n  maxBytes: 10GB!\n",
        "epp.yaml:4: flowControl.maxBytes: '10GB!' is not a quantity; "
        "write a number with a unit if any, such as 500M or 64Mi",
    ),
    "name twice": (
        HEAD + "plugins:\n- type: queue-scorer\n- type: queue-scorer\n",
        'epp.yaml:5: plugins[1].name: plugin name "queue-scorer" is used twice; '
        "the first is on line 4; give each its own name",
    ),
    "dangling reference": (
        HEAD
        + "plugins:\n- type: queue-scorer\nschedulingProfiles:\n- name: default\n  plugins:\n  - pluginRef: queue\n",
        'epp.yaml:8: schedulingProfiles[0].plugins[0].pluginRef: no plugin is named "queue"; '
        'did you mean "queue-scorer"?',
    ),
    "reference to what is declared nowhere": (
        HEAD + "schedulingProfiles:\n- name: default\n  plugins:\n  - pluginRef: queue-scorer\n",
        'epp.yaml:6: schedulingProfiles[0].plugins[0].pluginRef: no plugin is named "queue-scorer"; '
        "declare it under plugins",
    ),
    "negative weight": (
        HEAD + "plugins:\n- type: queue-scorer\nschedulingProfiles:\n- name: d\n  plugins:\n"
        "  - pluginRef: queue-scorer\n    weight: -1\n",
        "epp.yaml:9: schedulingProfiles[0].plugins[0].weight: -1 is out of range; write at least 0.0",
    ),
    "listed twice": (
        HEAD + "plugins:\n- type: queue-scorer\nschedulingProfiles:\n- name: d\n  plugins:\n"
        "  - pluginRef: queue-scorer\n  - pluginRef: queue-scorer\n",
        'epp.yaml:9: schedulingProfiles[0].plugins[1].pluginRef: "queue-scorer" is listed twice; '
        "the first is on line 8; remove one",
    ),
    "two pickers": (
        HEAD + "plugins:\n- type: max-score-picker\n- type: random-picker\n",
        'epp.yaml:5: plugins[1]: a second picker "random-picker" in profile "default"; keep one',
    ),
    "two profiles": (
        HEAD + "schedulingProfiles:\n- name: prefill\n- name: decode\n",
        "epp.yaml:5: schedulingProfiles[1]: 2 profiles are given; keep one, and use a picker for each: "
        "there is no header-profile-handler or disagg-profile-handler here",
    ),
    "producer in a profile": (
        HEAD + "plugins:\n- type: token-producer\nschedulingProfiles:\n- name: d\n  plugins:\n"
        "  - pluginRef: token-producer\n",
        'epp.yaml:8: schedulingProfiles[0].plugins[0].pluginRef: "token-producer" is a data producer; '
        "it takes no part in a profile; remove it from the profile; it works by being declared",
    ),
    "reference to the wrong kind": (
        HEAD + "plugins:\n- type: queue-scorer\nrequestHandler:\n  parsers:\n  - pluginRef: queue-scorer\n",
        'epp.yaml:7: requestHandler.parsers[0].pluginRef: "queue-scorer" is a scorer, not a parser; name a parser',
    ),
    "parameter that names no plugin": (
        HEAD + "plugins:\n- type: prefix-cache-scorer\n  parameters:\n    prefixMatchInfoProducerName: precise\n",
        'epp.yaml:6: plugins[0].parameters.prefixMatchInfoProducerName: no plugin is named "precise"; '
        "use one of: prefix-cache-scorer",
    ),
    "unknown gate": (
        HEAD + "featureGates:\n- flowcontrol\n",
        'epp.yaml:4: featureGates[0]: unknown feature gate "flowcontrol"; did you mean "flowControl"?',
    ),
    "gate that is neither": (
        HEAD + "featureGates: [flowControl=on]\n",
        'epp.yaml:3: featureGates[0]: feature gate "flowControl=on" is not a name or name=true|false; correct it',
    ),
    "replica state": (
        HEAD + "dataLayer:\n  crossReplicaSyncerPluginRef: x\n",
        'epp.yaml:4: dataLayer.crossReplicaSyncerPluginRef: plugin "x" cannot be used: replicas share no state yet; '
        "remove it: each replica learns by itself, from its own requests and from metrics",
    ),
    "empty path": (
        HEAD + "plugins:\n- type: file-discovery\n  parameters: {path: ''}\n",
        "epp.yaml:5: plugins[0].parameters.path: must not be empty",
    ),
    "control characters are shown, not sent": (
        HEAD + 'plugins: [{type: "a\\eb\\n"}]\n',
        'epp.yaml:3: plugins[0].type: unknown plugin type "a\\x1bb\\n"; use one of: active-request-scorer, '
        "adaptive-detector, agent-identity, anthropic-parser, approx-prefix-cache-producer, by-label, "
        "by-label-selector, concurrency-detector, core-metrics-extractor, decode-filter, "
        "destination-endpoint-served-verifier, edf-ordering-policy, …",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_message(name: str) -> None:
    text, expected = MISTAKES[name]
    with pytest.raises(ConfigError) as caught:
        load_config(text, source="epp.yaml")
    assert str(caught.value) == expected
    assert caught.value.exit_code == 2
