"""What a drafter remembers of each tenant: recent text, and how well drafts did.

A tenant is a salt that comes with the session; no salt is a tenant like any
other. Everything learned hangs on one `Tenant`, and a session is given its own
and no other, so nothing that one tenant wrote, and no count made of it, can
show in what another is sent; tenants share room alone.

Text is taken in when a session ends: its index is of use to others only then,
sessions of a tenant would otherwise write into each other's text, and the time
of a commit is the drafter's scarcest. A text that has ended waits in line and
is indexed a little at a time, between steps.

Bounded three ways: tokens of a tenant, tokens in all, tenants. Memory is given
back in blocks, the oldest first, of the tenant that came longest ago.
"""

from array import array
from collections import OrderedDict, deque
from collections.abc import Sequence

from treedraft.draft.calibration import LogOddsPool, MatchCalibrator, OpinionMixer
from treedraft.draft.settings import LookupSettings
from treedraft.draft.suffix_index import SEPARATOR, SuffixIndex, find

_BLOCKS_PER_TENANT = 4
_CHUNK_TOKENS = 32


class _Text:
    """A text on its way into the store."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self.token_ids = array("I", token_ids)
        self.num_read = 0
        # Names everything that was read so far.
        self.key = 0
        self.is_known = True

    @property
    def num_left(self) -> int:
        return len(self.token_ids) - self.num_read


class _Block:
    """A part of a tenant's text, dropped as a whole."""

    def __init__(self, settings: LookupSettings, size: int) -> None:
        self.index = SuffixIndex(settings, expected_tokens=size)
        # Keys of the beginnings of texts that end here.
        self.beginnings: set[int] = set()


class RecentText:
    """The text of one tenant's ended sessions, as far as there is room.

    A beginning that is there already, as a system prompt or the turns of a
    conversation before the last, is not taken in again.
    """

    def __init__(self, settings: LookupSettings) -> None:
        """Start empty."""
        self._settings = settings
        self._max_tokens = settings.recent.max_tokens_per_tenant
        self._block_size = self._max_tokens // _BLOCKS_PER_TENANT
        self._blocks: deque[_Block] = deque()
        self.num_tokens = 0

    @property
    def num_bytes(self) -> int:
        """Memory of the text and its indexes, in bytes."""
        return sum(block.index.num_bytes for block in self._blocks)

    def find(self, suffix: "array[int]") -> list[tuple[int, int]]:
        """Return what followed a suffix as (token, length), the latest text first."""
        indexes = [block.index for block in reversed(self._blocks)]
        return find(indexes, suffix, max_found=self._settings.max_candidates)

    def take(self, text: _Text) -> None:
        """Take in the next few tokens of a text."""
        chunk = text.token_ids[text.num_read : text.num_read + _CHUNK_TOKENS]
        key = hash((text.key, *chunk))
        if text.is_known and not any(key in block.beginnings for block in self._blocks):
            text.is_known = False
            # A match needs the words before it.
            seen = text.token_ids[max(0, text.num_read - self._settings.max_suffix) : text.num_read]
            self._append((SEPARATOR, *seen))
        if not text.is_known:
            self._append(chunk)
            self._blocks[-1].beginnings.add(key)
        text.key = key
        text.num_read += len(chunk)

    def drop_oldest(self) -> None:
        """Forget the oldest block."""
        self.num_tokens -= len(self._blocks.popleft().index)

    def clear(self) -> None:
        """Forget everything."""
        self._blocks.clear()
        self.num_tokens = 0

    def _append(self, token_ids: Sequence[int]) -> None:
        if not self._blocks or len(self._blocks[-1].index) + len(token_ids) > self._block_size:
            self._blocks.append(_Block(self._settings, self._block_size))
        self._blocks[-1].index.extend(token_ids)
        self.num_tokens += len(token_ids)
        while self.num_tokens > self._max_tokens:
            self.drop_oldest()


class Tenant:
    """Everything that is remembered of one tenant."""

    def __init__(self, settings: LookupSettings) -> None:
        """Start without text and with priors alone."""
        self.recent = RecentText(settings)
        self.matches = MatchCalibrator()
        # The session's own text and recent traffic name the same token.
        self.agreement = LogOddsPool(0.3, (0.6, 0.6))
        # Greedy texts and drawn ones differ in how far a model is right.
        self._greedy_mixer, self._drawn_mixer = OpinionMixer(), OpinionMixer()

    def mixer(self, *, is_greedy: bool) -> OpinionMixer:
        """Return what weighs model and lookup for greedy texts, or for drawn ones."""
        return self._greedy_mixer if is_greedy else self._drawn_mixer


class Tenants:
    """All tenants of a drafter, the one that came longest ago first."""

    def __init__(self, settings: LookupSettings) -> None:
        """Start without any."""
        self._settings = settings
        self._tenants: OrderedDict[bytes, Tenant] = OrderedDict()
        self._waiting: deque[tuple[bytes, _Text]] = deque()
        self._num_waiting_tokens = 0

    def __len__(self) -> int:
        """Return the number of tenants remembered."""
        return len(self._tenants)

    @property
    def num_tokens(self) -> int:
        """Tokens kept of all tenants."""
        return sum(tenant.recent.num_tokens for tenant in self._tenants.values())

    @property
    def num_bytes(self) -> int:
        """Memory of all text that is kept, in bytes."""
        return sum(tenant.recent.num_bytes for tenant in self._tenants.values())

    def get(self, salt: bytes) -> Tenant:
        """Return a tenant, a new one if need be, and count this as its latest coming."""
        tenant = self._tenants.get(salt)
        if tenant is None:
            tenant = self._tenants[salt] = Tenant(self._settings)
        self._tenants.move_to_end(salt)
        while len(self._tenants) > self._settings.recent.max_tenants:
            # Sessions under way may still hold it; its text goes at once.
            self._tenants.popitem(last=False)[1].recent.clear()
        return tenant

    def remember(self, salt: bytes, token_ids: Sequence[int]) -> None:
        """Put the text of a session that has ended in line; one too many is left out.

        Sessions without a tenant, whose salt is empty, may be anybody's: their
        text is kept only if the settings say that they are all one tenant's.
        """
        recent = self._settings.recent
        if self._settings.enabled and recent.enabled and (salt or recent.without_tenant):
            num_waiting = self._num_waiting_tokens + len(token_ids)
            if num_waiting <= recent.max_tokens:
                self._waiting.append((salt, _Text(token_ids)))
                self._num_waiting_tokens = num_waiting

    def digest(self, max_tokens: int) -> bool:
        """Take in about so many tokens of the texts in line; return whether there was one."""
        if not self._waiting:
            return False
        num_read = 0
        while self._waiting and num_read < max_tokens:
            salt, text = self._waiting[0]
            before = text.num_read
            self.get(salt).recent.take(text)
            num_read += text.num_read - before
            if not text.num_left:
                self._waiting.popleft()
        self._drop_excess()
        self._num_waiting_tokens -= num_read
        return True

    def _drop_excess(self) -> None:
        excess = self.num_tokens - self._settings.recent.max_tokens
        for tenant in self._tenants.values():
            while excess > 0 and tenant.recent.num_tokens:
                before = tenant.recent.num_tokens
                tenant.recent.drop_oldest()
                excess -= before - tenant.recent.num_tokens
