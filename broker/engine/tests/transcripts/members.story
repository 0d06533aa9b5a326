# The first member reads everything. The second gets half, one partition at a time as the first gives it up; what does
# not move is never paused.

> ann joins
    ann is in, and has to be heard of within 6 s
    ann is told: 0 1 2 3
    rebalancing: ann reads 0 1 2 3
> heartbeats of ann
    stable: ann reads 0 1 2 3
> bob joins
    bob is in, and has to be heard of within 6 s
    ann is told: 0 1
    bob is told: nothing
    rebalancing: ann reads 0 1 2 3, bob reads nothing
> heartbeats of ann
    bob is told: 2 3
    rebalancing: ann reads 0 1, bob reads 2 3
> heartbeats of ann bob
    stable: ann reads 0 1, bob reads 2 3

# A member that comes back under its name within its session finds everything as it was.

> bob loses its connection
    stable: ann reads 0 1, bob reads 2 3
> 3 seconds pass
    stable: ann reads 0 1, bob reads 2 3
> heartbeats of ann
    stable: ann reads 0 1, bob reads 2 3
> bob joins
    bob is in, and has to be heard of within 6 s
    bob is told: 2 3
    rebalancing: ann reads 0 1, bob reads 2 3
> heartbeats of ann bob
    stable: ann reads 0 1, bob reads 2 3

# One that leaves gives up everything at once.

> bob leaves
    ann is told: 0 1 2 3
    rebalancing: ann reads 0 1 2 3
> heartbeats of ann
    stable: ann reads 0 1 2 3

# One that crashes keeps its place until its session ends.

> cem joins
    cem is in, and has to be heard of within 6 s
    ann is told: 0 1
    cem is told: nothing
    rebalancing: ann reads 0 1 2 3, cem reads nothing
> heartbeats of ann cem
    cem is told: 2 3
    rebalancing: ann reads 0 1, cem reads 2 3
> heartbeats of ann cem
    stable: ann reads 0 1, cem reads 2 3
> ann loses its connection
    stable: ann reads 0 1, cem reads 2 3
> 5 seconds pass
    stable: ann reads 0 1, cem reads 2 3
> heartbeats of cem
    stable: ann reads 0 1, cem reads 2 3
> 2 seconds pass
    cem is told: 0 1 2 3
    rebalancing: cem reads 0 1 2 3
> heartbeats of cem
    stable: cem reads 0 1 2 3
