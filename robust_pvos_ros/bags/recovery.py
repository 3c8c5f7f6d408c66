"""What is left of a bag whose writer was killed: everything up to the last chunk that reached the disk."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import zstandard
from mcap.exceptions import EndOfFile, McapError
from mcap.records import Channel, Chunk, McapRecord, Message, Schema
from mcap.stream_reader import CRCValidationError, StreamReader, breakup_chunk

from robust_pvos_ros.bags.definitions import BagError, modern_name
from robust_pvos_ros.bags.reader import BagReader, plain
from robust_pvos_ros.bags.writer import BagWriter

LONGEST_RECORD = 1 << 30  # bytes; a damaged length must not fill the memory


class Stored(NamedTuple):
    """A message as it lies in a file, with what is known of its topic."""

    topic: str
    type: str
    time: int
    data: bytes
    definition: str = ''
    digest: str = ''
    qos: str = ''


@dataclass
class Losses:
    """What could not be read.

    Attributes:
        chunks, messages: damaged ones that were skipped.
        cut: whether the file ends without its end.
    """

    chunks: int = 0
    messages: int = 0
    cut: bool = False


def stored_messages(path: Path, losses: Losses) -> Iterator[Stored]:
    """Messages of an MCAP file in the order in which they were written, as far as it goes.

    Args:
        path: of the file.
        losses: what could not be read is added here.

    Raises:
        BagError: if it is no MCAP file.
    """
    schemas: dict[int, Schema] = {}
    channels: dict[int, Channel] = {}
    for record in _records(path, losses):
        if isinstance(record, Schema):
            schemas[record.id] = record
        elif isinstance(record, Channel):
            channels[record.id] = record
        elif isinstance(record, Message) and record.channel_id in channels:
            channel = channels[record.channel_id]
            schema = schemas.get(channel.schema_id)
            try:
                data = plain(record.data)
            except zstandard.ZstdError:
                losses.messages += 1
                continue
            yield Stored(
                channel.topic,
                modern_name(schema.name) if schema else '',
                record.log_time,
                data,
                schema.data.decode(errors='replace') if schema else '',
                channel.metadata.get('topic_type_hash', ''),
                channel.metadata.get('offered_qos_profiles', ''),
            )


def _records(path: Path, losses: Losses) -> Iterator[McapRecord]:
    with path.open('rb') as file:
        records = StreamReader(file, emit_chunks=True, record_size_limit=LONGEST_RECORD).records
        begun = False
        while True:
            try:
                record = next(records)
            except StopIteration:
                return
            except (EndOfFile, McapError, struct.error, ValueError, UnicodeDecodeError) as error:
                if not begun:
                    raise BagError(f'{path} is no MCAP file, or nothing of it was written') from error
                losses.cut = True
                return
            begun = True
            if isinstance(record, Chunk):
                yield from _inside(record, losses)
            else:
                yield record


def _inside(chunk: Chunk, losses: Losses) -> list[McapRecord]:
    try:
        return breakup_chunk(chunk, validate_crc=True)
    except CRCValidationError:
        losses.chunks += 1
    except Exception:  # whatever its decompressor makes of damaged data
        losses.chunks += 1
    return []


@dataclass(frozen=True)
class Recovered:
    """What came out: number of messages, nanoseconds from the first to the last, and what was lost."""

    messages: int
    duration: int
    losses: Losses


def recover(source: Path, out: Path) -> Recovered:
    """Rewrite a damaged bag as a clean one.

    Args:
        source: an ``.mcap`` file, or a folder that has some in it; a ``.db3`` file, which loses no more than its
            ``metadata.yaml``, is rewritten as well.
        out: folder to be made for the bag.

    Raises:
        BagError: if nothing can be read; nothing lies at ``out`` then.
    """
    losses = Losses()
    first = last = count = 0
    # PATH.partial may be what is to be recovered.
    with BagWriter(out, workplace=out.parent / f'{out.name}.recovering') as writer:
        for message in _all_messages(source, losses):
            if not message.type:
                continue
            writer.add_topic(message.topic, message.type, message.definition, message.digest, message.qos)
            writer.write(message.topic, message.type, message.time, message.data)
            first = message.time if not count else min(first, message.time)
            last = max(last, message.time)
            count += 1
        if not count:
            raise BagError(f'{source} holds no message that could be recovered')
    return Recovered(count, last - first, losses)


def _all_messages(source: Path, losses: Losses) -> Iterator[Stored]:
    if not source.exists():
        raise BagError(f'{source} does not exist')
    files = sorted(source.rglob('*.mcap')) if source.is_dir() else [source]
    if source.suffix == '.db3' or (source.is_dir() and not files):
        with BagReader(source) as reader:
            for entry in reader.raw():
                yield Stored(*entry, *reader.definition(entry.topic))
        return
    for file in files:
        yield from stored_messages(file, losses)


def copy_messages(file: Path, writer: BagWriter, count: int) -> None:
    """Append the first ``count`` messages of an unfinished MCAP file to a bag.

    Raises:
        BagError: if the file has fewer.
    """
    before = writer.written
    for message in stored_messages(file, Losses()):
        if writer.written - before == count:
            break
        writer.write(message.topic, message.type, message.time, message.data)
    if writer.written - before < count:
        raise BagError(f'{file} holds {writer.written - before} of the {count} messages it should: remove it')


def remove(folder: Path) -> None:
    """Remove a folder with all that is in it, if it exists."""
    shutil.rmtree(folder, ignore_errors=True)
