# Ann reads what a pattern means, which is nothing yet.

> ann joins for photos.*
    ann is in, and has to be heard of within 6 s
    ann is told: nothing
    rebalancing: ann reads nothing
> heartbeats of ann
    stable: ann reads nothing

# Topics come. What the pattern does not mean is nobody's.

> topic photos.raw comes with 2
    ann is told: photos.raw/0 photos.raw/1
    rebalancing: ann reads photos.raw/0 photos.raw/1
> topic photos.raw.old comes with 1
    rebalancing: ann reads photos.raw/0 photos.raw/1
> heartbeats of ann
    stable: ann reads photos.raw/0 photos.raw/1

# Bob joins by a wider pattern, which means both and `photos` itself not.

> bob joins for photos.>
    bob is in, and has to be heard of within 6 s
    bob is told: photos.raw.old/0
    rebalancing: ann reads photos.raw/0 photos.raw/1, bob reads photos.raw.old/0
> heartbeats of ann bob
    stable: ann reads photos.raw/0 photos.raw/1, bob reads photos.raw.old/0
> heartbeats of ann bob
    stable: ann reads photos.raw/0 photos.raw/1, bob reads photos.raw.old/0

# Another topic comes, and one goes: what is not concerned stays where it is.

> topic photos.small comes with 1
    bob is told: photos.raw.old/0 photos.small/0
    rebalancing: ann reads photos.raw/0 photos.raw/1, bob reads photos.raw.old/0 photos.small/0
> heartbeats of ann bob
    stable: ann reads photos.raw/0 photos.raw/1, bob reads photos.raw.old/0 photos.small/0
> topic photos.raw goes
    ann is told: nothing
    bob is told: photos.raw.old/0
    rebalancing: ann reads nothing, bob reads photos.raw.old/0 photos.small/0
> heartbeats of ann bob
    ann is told: photos.small/0
    rebalancing: ann reads photos.small/0, bob reads photos.raw.old/0

# Cem names the one topic that the patterns do not mean.

> cem joins
    cem is in, and has to be heard of within 6 s
    cem is told: 0 1 2 3
    rebalancing: ann reads photos.small/0, bob reads photos.raw.old/0, cem reads 0 1 2 3
> heartbeats of ann bob cem
    stable: ann reads photos.small/0, bob reads photos.raw.old/0, cem reads 0 1 2 3
