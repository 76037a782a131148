"""Bytes that a program has twice are stored once, and everything else stays."""

import random

import pytest
from executorch.exir._serialize._named_data_store import NamedDataStore
from executorch.exir._serialize._program import PTEFile, deserialize_pte_binary, serialize_pte_binary
from executorch.exir.schema import Buffer, Program, SubsegmentOffsets

from himix_edge.export.targets.executorch.program_file import write_shared


def written(path, constants, named, mutable=None):
    """A program file without methods."""
    store = NamedDataStore()
    for key, data in named.items():
        store.add_named_data(key, data, alignment=16)
    program = Program(
        version=0, execution_plan=[], constant_buffer=[Buffer(b""), *map(Buffer, constants)], backend_delegate_data=[],
        segments=[], constant_segment=SubsegmentOffsets(0, []), mutable_data_segments=[], named_data=[],
    )  # fmt: skip
    file = PTEFile(program, mutable and [Buffer(b""), Buffer(mutable)], store.get_named_data_store_output())
    path.write_bytes(bytes(serialize_pte_binary(file, extract_delegate_segments=True)))
    return path


def read(path):
    file = deserialize_pte_binary(path.read_bytes())
    named = {key: file.named_data.buffers[entry.buffer_index] for key, entry in file.named_data.pte_data.items()}
    return [bytes(buffer.storage) for buffer in file.program.constant_buffer], named, file.mutable_data


def test_what_is_a_constant_and_named_data_is_stored_once(tmp_path):
    random.seed(0)
    table, scales, other, own = (random.randbytes(size) for size in (40_000, 5_002, 6_000, 7_000))
    almost = table[:-1] + bytes([table[-1] ^ 1])
    constants, named = [other, table, scales], {"a": own, "head": table, "b": own[::-1], "scales": scales, "c": almost}
    source = written(tmp_path / "source.pte", constants, named, mutable=b"state" * 30)
    write_shared(source, tmp_path / "model.pte")
    before, after = read(source), read(tmp_path / "model.pte")
    assert after == before
    assert after[1] == named
    saved = source.stat().st_size - (tmp_path / "model.pte").stat().st_size
    assert saved == pytest.approx(len(table) + len(scales), abs=256)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pte", "source.pte"]


def test_a_program_without_copies_stays_as_it_is(tmp_path):
    source = written(tmp_path / "source.pte", [b"1" * 3000], {"a": b"2" * 3000, "small": b"1" * 100})
    write_shared(source, tmp_path / "model.pte")
    assert (tmp_path / "model.pte").read_bytes() == source.read_bytes()


def test_a_file_that_is_no_program_is_refused(tmp_path):
    (tmp_path / "source.pte").write_bytes(b"nothing" * 100)
    with pytest.raises(ValueError, match="not an ExecuTorch program"):
        write_shared(tmp_path / "source.pte", tmp_path / "model.pte")
