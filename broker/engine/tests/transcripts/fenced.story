# Ann is told to give up two partitions. She is alive and goes on as if she had not heard it. Bob waits for her, but not
# for ever: after a session time what she was to give up is taken, and what she then says is refused.

> ann joins
    ann is in, and has to be heard of within 6 s
    ann is told: 0 1 2 3
    rebalancing: ann reads 0 1 2 3
> heartbeats of ann
    stable: ann reads 0 1 2 3
> ann commits 0 at 10
    committed: partition 0 goes on at 10
    stable: ann reads 0 1 2 3
> ann commits 0 at 7
    it was further already
    stable: ann reads 0 1 2 3
> bob joins
    bob is in, and has to be heard of within 6 s
    ann is told: 0 1
    bob is told: nothing
    rebalancing: ann reads 0 1 2 3, bob reads nothing
> 4 seconds pass
    rebalancing: ann reads 0 1 2 3, bob reads nothing
> ann beats as before
    rebalancing: ann reads 0 1 2 3, bob reads nothing
> heartbeats of bob
    rebalancing: ann reads 0 1 2 3, bob reads nothing
> ann commits 3 at 20
    committed: partition 3 goes on at 20
    rebalancing: ann reads 0 1 2 3, bob reads nothing
> 3 seconds pass
    ann is told: nothing
    bob is told: 2 3
    rebalancing: ann reads 0 1, bob reads 2 3
> ann beats as before
    refused: member `ann` is fenced
    rebalancing: ann reads 0 1, bob reads 2 3
> ann commits 3 at 30
    refused: member `ann` is fenced
    rebalancing: ann reads 0 1, bob reads 2 3
> heartbeats of bob
    rebalancing: ann reads 0 1, bob reads 2 3
> bob commits 3 at 25
    committed: partition 3 goes on at 25
    rebalancing: ann reads 0 1, bob reads 2 3

# She joins again and gets her share.

> ann joins
    ann is in, and has to be heard of within 6 s
    ann is told: 0 1
    rebalancing: ann reads 0 1, bob reads 2 3
> heartbeats of ann bob
    stable: ann reads 0 1, bob reads 2 3
