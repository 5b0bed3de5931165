"""Who gets a sandbox, which are made, and which make room: pure, a snapshot in and a plan out.

The rules:
- Who asks waits in its tenant's line, first in, first out. Among the tenants whose turn it could be, the next one is
  that with the smallest dominant share: the largest part of the machine (sandboxes, memory, processors) that it
  holds, divided by its weight. Among equals it is whoever was served longest ago. With several nodes the machine is all
  of them together, and what a tenant has on the others counts.
- Nobody gets past a quota of their own; a tenant that waits for its own quota holds up nobody else.
- A warm sandbox of the right kind is given at once. Otherwise one is made, where the machine has room and not too many
  are being made. Whoever is next and finds no room is waited for: nothing is made for those behind it meanwhile, so
  that a large request is not starved by small ones. Warm sandboxes are not held up: they have their room already.
- Room is made by ending warm sandboxes that nobody has, then by evicting: idle sandboxes that were used longest ago,
  unused for `evict_after`, of tenants whose share stays at least as large as what the one who waits would have with it.
- What is left over fills the pools up.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable

from cellyard_controller.ids import SandboxId, TenantName
from cellyard_controller.sandboxes.plans import (
    NOTHING,
    Bounds,
    ClaimNumber,
    Decision,
    End,
    Give,
    Kind,
    Known,
    Make,
    Need,
    Plan,
    Promise,
    Snapshot,
    Stage,
    Wait,
    Waiting,
)


def plan(snapshot: Snapshot) -> Plan:
    """What follows from how things are."""
    return _Planning(snapshot).plan()


class _Planning:
    """One plan in the making."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._decisions: list[Decision] = []
        self._waits: dict[ClaimNumber, Wait] = {}
        self._used: defaultdict[TenantName, Need] = defaultdict(lambda: NOTHING)
        self._taken = NOTHING
        self._freeing = NOTHING
        self._warm: defaultdict[Kind, deque[Known]] = defaultdict(deque)
        self._unpromised: defaultdict[Kind, deque[Known]] = defaultdict(deque)
        self._making = 0
        self._served = dict(snapshot.served)
        self._count = max(self._served.values(), default=0)
        self._gone: set[SandboxId] = set()
        waiting = {each.claim for each in snapshot.waiting}
        self._promised: dict[ClaimNumber, Known] = {}
        self._made: dict[ClaimNumber, Known] = {}
        for known in sorted(snapshot.known, key=lambda each: each.since):
            self._take_in(known, waiting)

    def plan(self) -> Plan:
        self._give_promised()
        self._go_round()
        self._fill_pools()
        return Plan(tuple(self._decisions), self._waits)

    def _take_in(self, known: Known, waiting: set[ClaimNumber]) -> None:
        self._taken += known.need
        if known.stage is Stage.ENDING:
            self._freeing += known.need
        elif known.stage is Stage.HELD:
            if known.tenant is not None:  # else it was adopted just now, and its notebook is yet to be opened
                self._used[known.tenant] += known.need
        elif known.stage is Stage.WARM:
            if known.outdated:
                self._end(known)
            elif known.claim in waiting:
                assert known.claim is not None
                self._made[known.claim] = known
            else:
                self._warm[known.kind].append(known)
        else:
            self._making += 1
            if known.claim in waiting:
                assert known.claim is not None
                assert known.tenant is not None
                self._promised[known.claim] = known
                self._used[known.tenant] += known.need
            else:
                if known.claim is not None:  # whoever it was for has gone
                    self._decisions.append(Promise(known.sandbox_id, None))
                self._unpromised[known.kind].append(known)

    # Claims

    def _give_promised(self) -> None:
        """What was made for somebody is theirs. Whose is still being made takes a warm one, where there is one."""
        for waiting in self._snapshot.waiting:
            if waiting.claim in self._made:
                self._decisions.append(Give(waiting.claim, self._made[waiting.claim].sandbox_id))
                self._used[waiting.tenant] += waiting.need
                self._serve(waiting.tenant)
                continue
            promised = self._promised.get(waiting.claim)
            if promised is None:
                continue
            if self._warm[waiting.kind]:
                self._decisions.append(Give(waiting.claim, self._warm[waiting.kind].popleft().sandbox_id))
                self._decisions.append(Promise(promised.sandbox_id, None))
                self._unpromised[waiting.kind].append(promised)
                self._serve(waiting.tenant)
            else:
                self._waits[waiting.claim] = Wait("start", 0)

    def _go_round(self) -> None:
        """Serves the tenants in turn; what cannot be served is told why, and how many are ahead."""
        lines: dict[TenantName, deque[Waiting]] = {}
        for waiting in self._snapshot.waiting:
            if waiting.claim not in self._promised and waiting.claim not in self._made:
                lines.setdefault(waiting.tenant, deque()).append(waiting)
        room = ""  # why there is no room for more, once there is none
        ahead = 0
        turns = {tenant: self._turn(tenant, line[0].claim) for tenant, line in lines.items()}
        while lines:
            tenant = min(lines, key=turns.__getitem__)
            line = lines[tenant]
            waiting = line[0]
            over = self._quota(tenant).exceeded(self._used[tenant] + waiting.need)
            if over:
                for behind, each in enumerate(line):
                    self._waits[each.claim] = Wait(over, behind)
                del lines[tenant]
                continue
            if not self._serve_from_stock(waiting):
                if not room:
                    room = self._make_for(waiting)
                    if room:  # and others may have less from now on
                        turns = {each: self._turn(each, behind[0].claim) for each, behind in lines.items()}
                if room:
                    self._waits[waiting.claim] = Wait(room, ahead)
                    ahead += 1
            # It counts as served either way, so that those behind it come in the order in which they will.
            self._used[tenant] += waiting.need
            self._serve(tenant)
            line.popleft()
            if line:
                turns[tenant] = self._turn(tenant, line[0].claim)
            else:
                del lines[tenant]

    def _serve_from_stock(self, waiting: Waiting) -> bool:
        warm, unpromised = self._warm[waiting.kind], self._unpromised[waiting.kind]
        if warm:
            self._decisions.append(Give(waiting.claim, warm.popleft().sandbox_id))
            return True
        if unpromised:
            self._decisions.append(Promise(unpromised.popleft().sandbox_id, waiting.claim))
            self._waits[waiting.claim] = Wait("start", 0)
            return True
        return False

    def _make_for(self, waiting: Waiting) -> str:
        """Has a sandbox made; where that cannot be now, makes room, and says what is missing."""
        if self._making >= self._snapshot.making_at_once:
            return "start"
        if self._fits(self._taken + waiting.need):
            self._make(waiting.kind, waiting.need, waiting.claim)
            self._waits[waiting.claim] = Wait("start", 0)
            return ""
        if not self._snapshot.machine.exceeded(waiting.need):
            self._make_room(waiting)
        return "capacity"

    def _make_room(self, waiting: Waiting) -> None:
        for known in sorted((each for line in self._warm.values() for each in line), key=lambda each: each.since):
            if self._fits(self._taken - self._freeing + waiting.need):
                return
            self._warm[known.kind].remove(known)
            self._end(known)
        for known in self._evictable():
            if self._fits(self._taken - self._freeing + waiting.need):
                return
            assert known.tenant is not None
            mine = self._share(waiting.tenant, self._used[waiting.tenant] + waiting.need)
            theirs = self._share(known.tenant, self._used[known.tenant] - known.need)
            if known.tenant == waiting.tenant or theirs < mine:
                continue
            self._used[known.tenant] -= known.need
            self._end(known, evicted=True)

    def _evictable(self) -> Iterable[Known]:
        after = self._snapshot.evict_after
        if after is None:
            return ()
        idle = [
            known
            for known in self._snapshot.known
            if known.stage is Stage.HELD
            and known.unused_since is not None
            and self._snapshot.now - known.unused_since >= after
            and known.sandbox_id not in self._gone
        ]
        return sorted(idle, key=lambda known: known.unused_since or 0.0)

    # Pools

    def _fill_pools(self) -> None:
        for kind, (target, need) in self._snapshot.targets.items():
            there = len(self._warm[kind]) + len(self._unpromised[kind])
            lacking = any(wait.reason == "capacity" for wait in self._waits.values())
            while (
                there < target
                and kind not in self._snapshot.pausing
                and not lacking
                and self._making < self._snapshot.making_at_once
                and self._fits(self._taken + need)
            ):
                self._make(kind, need, None)
                there += 1
        for kind, warm in self._warm.items():
            target, _ = self._snapshot.targets.get(kind, (0, NOTHING))
            while len(warm) > target:
                self._end(warm.popleft())

    # Parts

    def _turn(self, tenant: TenantName, claim: ClaimNumber) -> tuple[float, int, ClaimNumber]:
        return self._share(tenant, self._used[tenant]), self._served.get(tenant, 0), claim

    def _share(self, tenant: TenantName, used: Need) -> float:
        elsewhere = self._snapshot.elsewhere.get(tenant)
        together = self._snapshot.together or self._snapshot.machine
        return together.share(used if elsewhere is None else used + elsewhere) / self._quota(tenant).weight

    def _quota(self, tenant: TenantName) -> Bounds:
        return self._snapshot.quotas.get(tenant, _UNBOUNDED)

    def _fits(self, taken: Need) -> bool:
        return not self._snapshot.machine.exceeded(taken)

    def _serve(self, tenant: TenantName) -> None:
        self._count += 1
        self._served[tenant] = self._count

    def _make(self, kind: Kind, need: Need, claim: ClaimNumber | None) -> None:
        self._decisions.append(Make(kind, claim))
        self._taken += need
        self._making += 1

    def _end(self, known: Known, *, evicted: bool = False) -> None:
        self._decisions.append(End(known.sandbox_id, evicted))
        self._gone.add(known.sandbox_id)
        self._freeing += known.need


_UNBOUNDED = Bounds()
