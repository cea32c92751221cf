"""The loop around a scheduler with nothing computed, and a cache that remembers what was written where."""

from __future__ import annotations

from collections.abc import Sequence as Tokens

from vqa.jobs.lane import LANES, Lane
from workers.engine.continuous.block_manager import BlockManager
from workers.engine.continuous.scheduler import Batch, Scheduler
from workers.engine.continuous.sequence import Sequence
from workers.engine.fair_share import BULK_TURN, Reserve


class Shadow:
    """What each place of the cache holds: a number that stands for a token and all tokens before it."""

    def __init__(self, blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.content = [[-1] * block_size for _ in range(blocks)]
        self._numbers: dict[object, int] = {}

    def number(self, *of: object) -> int:
        return self._numbers.setdefault(of, len(self._numbers))

    def chain(self, tokens: Tokens[int]) -> list[int]:
        chain: list[int] = []
        for token in tokens:
            chain.append(self.number(chain[-1] if chain else None, token))
        return chain

    def hashes(self, chain: list[int]) -> tuple[bytes, ...]:
        """The number of a block's last token tells all that is in it and before it."""
        return tuple(b"%d" % last for last in chain[self.block_size - 1 :: self.block_size])

    def write(self, seq: Sequence, position: int, what: int) -> None:
        self.content[seq.blocks[position // self.block_size]][position % self.block_size] = what

    def read(self, seq: Sequence, count: int) -> list[int]:
        """What a sequence's first positions hold."""
        held = -(-count // self.block_size)
        return [what for block in seq.blocks[:held] for what in self.content[block]][:count]


class Drive:
    """Checks each decision by books of its own. A sequence that a batch ends is finished one batch later."""

    def __init__(self, slots: int, blocks: int, block_size: int, prefill_tokens: int, reserve: int = 0) -> None:
        self.slots, self.prefill_tokens = slots, prefill_tokens
        #: slots that bulk may have
        self.share = slots - reserve
        self.blocks = BlockManager(blocks, block_size)
        self.scheduler = Scheduler(slots, self.blocks, prefill_tokens, Reserve(reserve))
        self.shadow = Shadow(blocks, block_size)
        #: who has arrived and not left
        self.present: list[Sequence] = []
        #: who waits for a slot, by lane
        self.queues: dict[str, list[Sequence]] = {lane: [] for lane in LANES}
        #: who got a slot, in order
        self.entered: list[Sequence] = []
        #: how many of the last of them went before bulk that waited, and of the last passes before bulk in slots
        self.passed_bulk = self.passed_bulk_in_slots = 0
        #: by sequence: what its prompt's tokens stand for; tokens computed or found; tokens of the answer
        self.chains: dict[Sequence, list[int]] = {}
        self.computed: dict[Sequence, int] = {}
        self.made: dict[Sequence, int] = {}
        self.works: list[Batch | None] = []
        self._ended: list[Sequence] = []
        self._at_their_end: list[Sequence] = []

    @property
    def waiting(self) -> list[Sequence]:
        return [seq for queue in self.queues.values() for seq in queue]

    @property
    def decoding(self) -> list[Sequence]:
        return [seq for seq in self.scheduler.running if 0 < self.made[seq] < seq.max_tokens]

    @property
    def prefilling(self) -> list[Sequence]:
        return [seq for seq in self.scheduler.running if not self.made[seq]]

    def add(self, tokens: int | Tokens[int], most: int, lane: Lane = "interactive", alone: bool = False) -> Sequence:
        """A prompt of these tokens, or of so many that no other has."""
        given = [-1 - len(self.chains), *range(1, tokens)] if isinstance(tokens, int) else tokens
        chain = self.shadow.chain(given)
        seq = Sequence(len(chain), most, lane, alone, block_hashes=self.shadow.hashes(chain))
        assert self.scheduler.fits(seq)
        self.scheduler.add(seq)
        self.present.append(seq)
        self.queues[lane].append(seq)
        self.chains[seq] = chain
        self.computed[seq] = self.made[seq] = 0
        return seq

    def end(self, seq: Sequence) -> None:
        """By a stop, a deadline or a cancellation: seen at the next turn."""
        self._ended.append(seq)

    def turn(self, fails: bool = False) -> Batch | None:
        """Compute a pass; one with prompts may fail, after it has written anything anywhere."""
        for seq in self._ended:
            if seq in self.present:
                self.present.remove(seq)
                if seq in self.queues[seq.lane]:
                    self.queues[seq.lane].remove(seq)
                self.scheduler.finish(seq)
        self._ended, self._at_their_end = self._at_their_end, []
        running, decoding = self.scheduler.running, self.decoding
        work = self.scheduler.schedule()
        self._check_entries(running)
        if work is None:
            assert not decoding
            assert not self.prefilling
            assert self.scheduler.running or not self.waiting
        elif fails and work.chunks:
            self._check_choice(work, decoding)
            self._fail(work)
        else:
            self._check_choice(work, decoding)
            self._compute(work)
        self.works.append(work)
        return work

    def turns(self, count: int) -> list[Batch | None]:
        return [self.turn() for _ in range(count)]

    def finish(self) -> None:
        """Until everybody has left; each pass computes at least a token."""
        for _ in range(sum(seq.max_len + 3 for seq in self.present) + 3):
            if not self.present:
                break
            self.turn()
            self.check()
        assert not self.present
        assert self.turn() is None
        assert not self.scheduler.running
        assert self.blocks.num_free == self.blocks.num_blocks

    def check(self) -> None:
        running = self.scheduler.running
        slots = {seq.slot for seq in running}
        assert len(slots) == len(running)
        assert slots <= set(range(self.slots))
        assert len(running) == 1 or not any(seq.alone for seq in running)
        for seq in running:
            assert len(seq.blocks) == -(-(seq.num_prompt_tokens + seq.max_tokens - 1) // self.blocks.block_size)
            assert len(set(seq.blocks)) == len(seq.blocks)
            assert seq.num_prefilled == self.computed[seq] <= seq.num_prompt_tokens
            assert seq.num_generated == self.made[seq] <= seq.max_tokens
        held = [block for seq in running for block in seq.blocks]
        assert self.blocks._references == [held.count(block) for block in range(self.blocks.num_blocks)]
        assert self.blocks.num_free == self.blocks.num_blocks - len(set(held))
        for hash, block in self.blocks._blocks.items():
            # this number stands for all that is before it, too
            assert self.shadow.content[block][-1] == int(hash), "a block is found by what it does not hold"

    def _check_entries(self, before: tuple[Sequence, ...]) -> None:
        inside = list(before)
        for seq in [seq for seq in self.scheduler.running if seq not in before]:
            bulk = sum(other.lane == "bulk" for other in inside)
            if seq.lane == "bulk":
                assert bulk < self.share
                assert len(inside) < self.share or self.passed_bulk >= BULK_TURN - 1
            inside.append(seq)
            assert seq is self.queues[seq.lane].pop(0), "overtaken on its own lane"
            self.entered.append(seq)
            self.passed_bulk = self.passed_bulk + 1 if self.queues["bulk"] and seq.lane != "bulk" else 0
            assert self.passed_bulk < BULK_TURN or bulk >= self.share

    def _check_choice(self, work: Batch, decoding: list[Sequence]) -> None:
        assert list(work.decode) == decoding, "who decodes waits"
        prompts = [chunk.sequence for chunk in work.chunks]
        waiting = self.prefilling
        assert len(set(prompts)) == len(prompts)
        assert bool(prompts) == bool(waiting)
        if not waiting:
            return
        budget, used = max(1, self.prefill_tokens - len(decoding)), work.num_tokens - len(decoding)
        assert 0 < used <= budget
        lanes = list(dict.fromkeys(seq.lane for seq in prompts))
        overtaken = any(seq.lane == "bulk" for seq in waiting) and lanes[0] != "bulk"
        if lanes[0] == "bulk" and any(seq.lane != "bulk" for seq in waiting):
            assert self.passed_bulk_in_slots >= BULK_TURN - 1, "bulk goes before interactive"
        self.passed_bulk_in_slots = self.passed_bulk_in_slots + 1 if overtaken else 0
        assert self.passed_bulk_in_slots < BULK_TURN, "bulk is passed over for ever"
        if any(seq.isolated for seq in prompts):
            assert len(prompts) == 1
            return
        by_lane_and_age = [seq for lane in lanes for seq in waiting if seq.lane == lane and not seq.isolated]
        assert prompts == by_lane_and_age[: len(prompts)]
        if used < budget:
            assert len(prompts) == sum(not seq.isolated for seq in waiting), "a prompt waits though there is room"
            assert all(chunk.is_last for chunk in work.chunks)
        assert all(chunk.is_last for chunk in work.chunks[:-1])

    def _compute(self, work: Batch) -> None:
        """Write what the pass computes, then read what it attends to: a layer writes before it reads."""
        for seq in work.decode:
            place = seq.num_prompt_tokens + self.made[seq] - 1
            self._write(seq, place, self.shadow.number(seq, place))
            self.made[seq] += 1
        for chunk in work.chunks:
            seq = chunk.sequence
            if not self.computed[seq]:
                assert chunk.is_first
                assert chunk.start == seq.num_cached < seq.num_prompt_tokens
                assert seq.num_cached % self.blocks.block_size == 0
                self.computed[seq] = seq.num_cached
            assert self.computed[seq] == chunk.start < chunk.stop <= seq.num_prompt_tokens
            for place in range(chunk.start, chunk.stop):
                self._write(seq, place, self.chains[seq][place])
            self.computed[seq] = chunk.stop
            self.made[seq] = int(chunk.is_last)
        for seq in (*work.decode, *(chunk.sequence for chunk in work.chunks)):
            answered = range(seq.num_prompt_tokens, seq.num_prompt_tokens + self.made[seq] - 1)
            expected = self.chains[seq][: self.computed[seq]] + [self.shadow.number(seq, place) for place in answered]
            assert self.shadow.read(seq, len(expected)) == expected, "it reads what others have written"
        self._at_their_end = [seq for seq in work.sequences if self.made[seq] == seq.max_tokens]

    def _write(self, seq: Sequence, place: int, what: int) -> None:
        index = place // self.blocks.block_size
        for other in self.scheduler.running:
            if other is not seq and seq.blocks[index] in other.blocks:
                assert other.blocks[index] == seq.blocks[index]
                assert place < other.num_cached
                assert self.chains[other][place] == what, "it writes where another reads something else"
        self.shadow.write(seq, place, what)

    def _fail(self, work: Batch) -> None:
        garbage = self.shadow.number("garbage", len(self.works))
        for seq in work.decode:
            self.shadow.write(seq, seq.num_prompt_tokens + self.made[seq] - 1, garbage)
        for chunk in work.chunks:
            for place in range(chunk.start, chunk.stop):
                self.shadow.write(chunk.sequence, place, garbage)
        self.scheduler.undo(work)
        for chunk in reversed(work.chunks):
            seq = chunk.sequence
            assert (seq.slot, seq.isolated) == (None, True)
            self.queues[seq.lane].insert(0, seq)
            self.computed[seq] = self.made[seq] = 0
