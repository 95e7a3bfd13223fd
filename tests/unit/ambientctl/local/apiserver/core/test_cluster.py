"""The verbs on objects, as scenarios."""

from __future__ import annotations

import datetime

import pytest

from ambientctl.local.apiserver.core.cluster import Call
from ambientctl.local.apiserver.core.patches import APPLY_PATCH, MERGE_PATCH
from ambientctl.local.apiserver.core.status import ApiError
from tests.unit.ambientctl.local.worlds import crd, node, pod, service, widget, workload


def refused(code, action, *args, **options):
    with pytest.raises(ApiError) as caught:
        action(*args, **options)
    assert caught.value.code == code, caught.value.message
    return caught.value


def test_a_new_object_gets_its_identity_from_the_server(world):
    made = world.create(
        {**pod(), "metadata": {**pod()["metadata"], "uid": "mine", "generation": 9}}
    )
    metadata = made["metadata"]
    assert metadata["uid"].startswith("uid-")
    assert metadata["creationTimestamp"] == "2026-01-01T00:00:00Z"
    assert metadata["resourceVersion"].isdigit()
    assert "generation" not in metadata


def test_a_generated_name(world):
    made = world.create({**pod(), "metadata": {"generateName": "web-"}})
    assert made["metadata"]["name"].startswith("web-x")


def test_a_pod_gets_defaults_an_account_and_its_token(world):
    made = world.create(pod())
    assert made["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert made["spec"]["serviceAccountName"] == "default"
    assert made["spec"]["terminationGracePeriodSeconds"] == 30
    (volume,) = made["spec"]["volumes"]
    (mount,) = made["spec"]["containers"][0]["volumeMounts"]
    assert mount["name"] == volume["name"]
    assert mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"


def test_no_token_where_none_is_wanted(world):
    made = world.create(pod(automountServiceAccountToken=False))
    assert "volumes" not in made["spec"]


def app(pod, other=None, **fields):
    pod["spec"]["containers"][0].update(fields)
    if other:
        pod["spec"]["containers"].append({"image": "x", **other})


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        (lambda p: p["metadata"].update(name="Bad_Name"), 422, "RFC 1123"),
        (lambda p: p["metadata"].update(resourceVersion="1"), 400, "should not be set"),
        (lambda p: p["metadata"].pop("name"), 422, "name or generateName is required"),
        (lambda p: p["metadata"].update(labels={"a b": "c"}), 422, "metadata.labels"),
        (lambda p: p["spec"].update(containers=[]), 422, "spec.containers: Required value"),
        (lambda p: p["spec"].update(serviceAccountName="nobody"), 403, '"nobody" not found'),
        (lambda p: p["spec"].update(restartPolicy="Maybe"), 422, "Unsupported value"),
        (lambda p: app(p, name="a", other={"name": "a"}), 422, "Duplicate value"),
        (lambda p: app(p, ports=[{"containerPort": 0}]), 422, "must be between 1 and 65535"),
        (lambda p: app(p, volumeMounts=[{"name": "x", "mountPath": "/x"}]), 422, "Not found"),
        (lambda p: p.update(apiVersion="v2"), 400, "no matches for kind"),
    ],
)  # fmt: skip
def test_a_pod_that_cannot_be_is_refused_with_its_reason(world, change, code, text):
    wrong = pod()
    change(wrong)
    assert text in refused(code, world.create, wrong).message


def test_the_same_name_twice(world):
    world.create(pod())
    assert refused(409, world.create, pod()).message == 'pods "web" already exists'


def test_a_namespace_must_exist_and_live(world):
    lost = pod()
    lost["metadata"]["namespace"] = "nowhere"
    assert refused(404, world.create, lost).message == 'namespaces "nowhere" not found'
    world.delete({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
    error = refused(403, world.create, pod())
    assert "because it is being terminated" in error.message
    assert error.details["causes"][0]["reason"] == "NamespaceTerminating"


def test_a_dry_run_changes_nothing(world):
    before = world.cluster.store.revision
    world.create(pod(automountServiceAccountToken=False, serviceAccountName="default"),
                 Call(dry_run=True))  # fmt: skip
    assert world.find(pod()) is None
    # Only the account that the pod lacked was made.
    assert world.cluster.store.revision - before <= 1


def test_a_stale_update_is_a_conflict(world):
    made = world.create(service())
    world.update({**made, "metadata": {**made["metadata"], "labels": {"a": "b"}}})
    error = refused(409, world.update, made)
    assert error.message == (
        'Operation cannot be fulfilled on services "web": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )


def test_an_update_without_a_change_is_no_event(world):
    made = world.create(service())
    revision = world.cluster.store.revision
    assert world.update(made) == made
    assert world.cluster.store.revision == revision


def test_the_generation_counts_intent_only(world):
    made = world.create(workload())
    labelled = world.update({**made, "metadata": {**made["metadata"], "labels": {"a": "b"}}})
    told = world.update({**labelled, "status": {"replicas": 1}}, "status")
    scaled = world.update({**told, "spec": {**told["spec"], "replicas": 3}})
    assert [o["metadata"]["generation"] for o in (made, labelled, told, scaled)] == [1, 1, 1, 2]


def test_status_and_spec_have_separate_doors(world):
    made = world.create(workload())
    both = {**made, "spec": {**made["spec"], "replicas": 5}, "status": {"replicas": 7}}
    told = world.update(both, "status")
    assert (told["spec"]["replicas"], told["status"]) == (1, {"replicas": 7})
    changed = world.update({**told, "spec": both["spec"], "status": {}})
    assert (changed["spec"]["replicas"], changed["status"]) == (5, {"replicas": 7})


def test_a_pods_spec_is_fixed_but_for_its_image(world):
    made = world.create(pod())
    newer = {**made["spec"], "containers": [{**made["spec"]["containers"][0], "image": "app:v2"}]}
    updated = world.update({**made, "spec": newer})
    assert updated["spec"]["containers"][0]["image"] == "app:v2"
    moved = {**updated, "spec": {**updated["spec"], "nodeName": "elsewhere"}}
    assert "may not change fields other than" in refused(422, world.update, moved).message


def test_a_selector_is_immutable(world):
    made = world.create(workload())
    other = {"matchLabels": {"app": "web", "x": "y"}}
    spec = {**made["spec"], "selector": other}
    spec["template"] = {**spec["template"], "metadata": {"labels": other["matchLabels"]}}
    assert "field is immutable" in refused(422, world.update, {**made, "spec": spec}).message


def test_a_selector_must_take_the_template(world):
    wrong = workload()
    wrong["spec"]["selector"] = {"matchLabels": {"app": "other"}}
    assert "does not match template `labels`" in refused(422, world.create, wrong).message


def test_a_service_keeps_its_address_when_the_manifest_is_silent(world):
    made = world.create(service())
    silent = service(ports=[{"port": 81, "name": "http"}])
    again = world.update(silent)
    assert again["spec"]["clusterIP"] == made["spec"]["clusterIP"]
    moved = {
        **again,
        "spec": {**again["spec"], "clusterIP": "10.96.7.7", "clusterIPs": ["10.96.7.7"]},
    }
    assert "may not change once set" in refused(422, world.update, moved).message


def bound(world, **spec):
    return world.create(pod(nodeName="node-1", **spec))


def test_a_running_pod_is_deleted_in_two_steps(world):
    bound(world)
    marked = world.delete(pod())
    assert marked["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:30Z"
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 30
    assert world.find(pod()) is not None
    world.delete(pod(), grace_s=0)
    assert world.find(pod()) is None


def test_a_second_deletion_may_only_shorten_the_time(world):
    bound(world)
    world.delete(pod(), grace_s=10)
    world.now += datetime.timedelta(seconds=1)
    assert world.delete(pod(), grace_s=60)["metadata"]["deletionGracePeriodSeconds"] == 10
    assert world.delete(pod(), grace_s=2)["metadata"]["deletionGracePeriodSeconds"] == 2


def test_a_pod_without_a_node_goes_at_once(world):
    world.create(pod())
    world.delete(pod())
    assert world.find(pod()) is None


def test_a_finalizer_holds_an_object_until_it_is_taken_off(world):
    held = service()
    held["metadata"]["finalizers"] = ["example.com/hold"]
    world.create(held)
    marked = world.delete(held)
    assert marked["metadata"]["deletionTimestamp"]
    world.update({**marked, "metadata": {**marked["metadata"], "finalizers": []}})
    assert world.find(held) is None


def test_preconditions(world):
    made = world.create(service())
    assert "Precondition failed: UID" in refused(409, world.delete, made, uid="other").message
    refused(409, world.delete, made, revision="1")
    world.delete(made, uid=made["metadata"]["uid"])
    assert world.find(made) is None


def test_a_namespace_waits_for_its_own_finalizer(world):
    shop = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
    marked = world.delete(shop)
    assert marked["status"]["phase"] == "Terminating"
    world.update({**marked, "spec": {"finalizers": []}})
    assert world.find(shop) is None


def test_a_definition_serves_its_kind_at_once_and_takes_it_along(world):
    definition = world.create(crd())
    assert {c["type"] for c in definition["status"]["conditions"]} == {
        "Established",
        "NamesAccepted",
    }
    made = world.create(widget(color="red"))
    assert made["spec"] == {"color": "red", "size": 3}
    world.delete(definition)
    assert world.cluster.catalogue.of("example.com/v1", "Widget") is None
    assert world.cluster.store.objects(("example.com", "widgets")) == []


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        ({}, ["spec.color"]),
        ({"color": "blue"}, ["spec.color"]),
        ({"color": "red", "size": "x", "parts": [{}]}, ["spec.size", "spec.parts[0].name"]),
    ],
)
def test_a_custom_resource_is_checked_by_its_schema(world, spec, fields):
    world.create(crd())
    error = refused(422, world.create, widget(**spec))
    assert [cause["field"] for cause in error.details["causes"]] == fields


def test_unknown_fields_are_refused_told_or_dropped(world):
    world.create(crd())
    strict = refused(400, world.create, widget(color="red", zip=1), Call(validation="Strict"))
    assert strict.message == 'strict decoding error: unknown field "spec.zip"'
    call = Call(validation="Warn", warnings=[])
    assert "zip" not in world.create(widget(color="red", zip=1), call)["spec"]
    assert call.warnings == ['unknown field "spec.zip"']


def patch(world, obj, media_type, body, *, subresource="", **call):
    metadata = obj["metadata"]
    address = metadata.get("namespace", ""), metadata["name"]
    kind = world.cluster.kind_of(obj)
    return world.cluster.patch(kind, address, media_type, body, Call(**call), subresource)


def test_server_side_apply_creates_then_merges_then_removes(world):
    world.create(crd())
    made, created = patch(world, widget(), APPLY_PATCH, widget(color="red", parts=[{"name": "a"}]))
    assert created
    assert made["spec"] == {"color": "red", "size": 3, "parts": [{"name": "a"}]}
    again, created = patch(world, widget(), APPLY_PATCH, widget(color="red"))
    assert not created
    assert "parts" not in again["spec"]


def test_an_apply_that_changes_nothing_is_no_event(world):
    patch(world, service(), APPLY_PATCH, service())
    revision = world.cluster.store.revision
    patch(world, service(), APPLY_PATCH, service())
    assert world.cluster.store.revision == revision


def test_a_status_patch_leaves_the_rest_alone(world):
    made = world.create(node("node-1"))
    body = {"status": {"conditions": []}, "spec": {"unschedulable": True}}
    told, _ = patch(world, made, MERGE_PATCH, body, subresource="status")
    assert told["status"] == {"conditions": []}
    assert told["spec"] == {}


def test_a_patch_cannot_rename(world):
    made = world.create(service())
    with pytest.raises(ApiError, match="does not match the name on the URL"):
        patch(world, made, MERGE_PATCH, {"metadata": {"name": "other"}})


def test_what_a_caller_hands_in_is_not_changed(world):
    given = service()
    world.create(given)
    assert given == service()
