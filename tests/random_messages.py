"""Messages with whatever their fields allow, from a seed: what a hostile peer may send, well formed or not."""

from __future__ import annotations

import random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_TEXTS = (
    "",
    "x",
    "stdout",
    "stderr",
    "{}",
    "[]",
    "null",
    '{"a": 1}',
    "\0",
    "\u202e",
    "é" * 50,
    "../../etc/passwd",
    "[" * 200,
)
_NUMBERS = (0, 1, -1, 2, 7, 2**31 - 1, -(2**31), 1_000_000)
_LARGE = (2**63 - 1, -(2**63), 2**53)
_FLOATS = (0.0, 1.5, -1.0, float("inf"), float("-inf"), float("nan"), 1e308)
_DEPTH = 6


class Messages:
    """Random messages. `names` are texts that mean something to the receiver, such as ids that it knows."""

    def __init__(self, seed: int, names: tuple[str, ...] = ()) -> None:
        self.random = random.Random(seed)
        self._texts = _TEXTS + names * 4

    def fill(self, message: Message, depth: int = 0) -> Message:
        """Sets fields of a message at random, one of each oneof."""
        for oneof in message.DESCRIPTOR.oneofs:
            self._set(message, self.random.choice(oneof.fields), depth)
        for field in message.DESCRIPTOR.fields:
            if field.containing_oneof is None and self.random.random() < 0.8:
                self._set(message, field, depth)
        return message

    def altered(self, message: Message) -> Message:
        """The message with one of its fields, or of a message's in it, set at random."""
        inner = [value for field, value in message.ListFields() if field.message_type and not field.is_repeated]
        if inner and self.random.random() < 0.5:
            self.altered(self.random.choice(inner))
        elif message.DESCRIPTOR.fields:
            self._set(message, self.random.choice(message.DESCRIPTOR.fields), 0)
        return message

    def damaged(self, content: bytes) -> bytes:
        """The bytes with some of them changed, gone, or there twice."""
        changed = bytearray(content)
        for _ in range(self.random.randint(1, 4)):
            if not changed:
                break
            at = self.random.randrange(len(changed))
            match self.random.randrange(4):
                case 0:
                    changed[at] = self.random.randrange(256)
                case 1:
                    del changed[at : at + self.random.randint(1, 8)]
                case 2:
                    changed[at:at] = changed[at : at + 8]
                case _:
                    changed[at:at] = self.random.randbytes(4)
        return bytes(changed)

    def _set(self, message: Any, field: FieldDescriptor, depth: int) -> None:
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            self._set_message(message, field, depth)
        elif field.is_repeated:
            getattr(message, field.name).extend(self._value(field) for _ in range(self.random.randint(0, 3)))
        else:
            setattr(message, field.name, self._value(field))

    def _set_message(self, message: Any, field: FieldDescriptor, depth: int) -> None:
        if depth >= _DEPTH:
            return
        inner = getattr(message, field.name)
        if field.message_type.GetOptions().map_entry:
            value = field.message_type.fields_by_name["value"]
            for _ in range(self.random.randint(0, 3)):
                key = self.random.choice(("text/plain", "image/png", "application/json", *self._texts))
                if value.type == FieldDescriptor.TYPE_MESSAGE:
                    self.fill(inner[key], depth + 1)
                else:
                    inner[key] = self._value(value)
        elif field.is_repeated:
            for _ in range(self.random.randint(0, 3)):
                self.fill(inner.add(), depth + 1)
        else:
            inner.SetInParent()
            self.fill(inner, depth + 1)

    def _value(self, field: FieldDescriptor) -> Any:
        match field.type:
            case FieldDescriptor.TYPE_STRING:
                return self.random.choice(self._texts)
            case FieldDescriptor.TYPE_BYTES:
                return self.random.randbytes(self.random.randint(0, 40))
            case FieldDescriptor.TYPE_BOOL:
                return self.random.random() < 0.5
            case FieldDescriptor.TYPE_DOUBLE | FieldDescriptor.TYPE_FLOAT:
                return self.random.choice(_FLOATS)
            case FieldDescriptor.TYPE_ENUM:
                return self.random.choice([*(value.number for value in field.enum_type.values), 99])
            case FieldDescriptor.TYPE_INT64:
                return self.random.choice(_NUMBERS + _LARGE)
            case FieldDescriptor.TYPE_UINT32 | FieldDescriptor.TYPE_UINT64:
                return abs(self.random.choice(_NUMBERS))
            case _:
                return self.random.choice(_NUMBERS)
