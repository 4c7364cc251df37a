"""Real uses of protobuf: messages made by its extension, and `google`, a namespace that several distributions share."""

import importlib
import importlib.metadata
import pickle
import pkgutil

import google
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory, struct_pb2, timestamp_pb2
from google.protobuf.internal import api_implementation


def test_the_extension_is_used():
    assert api_implementation.Type() == "upb"


def test_google_is_a_namespace():
    assert getattr(google, "__file__", None) is None
    assert len(list(google.__path__)) == 1


@pytest.mark.parametrize("name", ["google.api.http_pb2", "google.rpc.status_pb2", "google.type.money_pb2"])
def test_another_distribution_lives_in_the_namespace(name):
    assert importlib.import_module(name).DESCRIPTOR.name.endswith(".proto")


def test_the_namespace_can_be_listed():
    assert {"protobuf"} <= {module.name for module in pkgutil.iter_modules(google.__path__)}


def test_a_message_survives_its_wire_format():
    value = struct_pb2.Struct()
    value.update({"a": 1, "b": [True, None, "c"], "d": {"e": 2.5}})
    again = struct_pb2.Struct.FromString(value.SerializeToString())
    assert json_format.MessageToDict(again) == {"a": 1, "b": [True, None, "c"], "d": {"e": 2.5}}


def test_json_is_parsed():
    stamp = json_format.Parse('"2024-02-29T12:00:00Z"', timestamp_pb2.Timestamp())
    assert stamp.ToDatetime().isoformat() == "2024-02-29T12:00:00"


def test_a_message_is_pickled():
    stamp = timestamp_pb2.Timestamp(seconds=5)
    assert pickle.loads(pickle.dumps(stamp)) == stamp


def test_a_message_type_is_made_at_run_time():
    file = descriptor_pb2.FileDescriptorProto(name="made.proto", package="made", syntax="proto3")
    field = file.message_type.add(name="Made").field.add(name="text", number=1)
    field.type, field.label = field.TYPE_STRING, field.LABEL_OPTIONAL
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made = message_factory.GetMessageClass(pool.FindMessageTypeByName("made.Made"))
    assert made.FromString(made(text="x").SerializeToString()).text == "x"


def test_proto_plus_wraps_messages():
    import proto

    class Song(proto.Message):
        title = proto.Field(proto.STRING, number=1)

    assert Song.deserialize(Song.serialize(Song(title="x"))).title == "x"


def test_the_distributions_are_known():
    for name in ("protobuf", "googleapis-common-protos", "proto-plus"):
        assert importlib.metadata.version(name)
