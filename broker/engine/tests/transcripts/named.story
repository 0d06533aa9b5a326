# Two members bring names that outlive their processes.

> first joins as audit-1
    first is in, and has to be heard of within 6 s
    first is told: 0 1 2 3
    rebalancing: audit-1 reads 0 1 2 3
> heartbeats of first
    stable: audit-1 reads 0 1 2 3
> other joins as audit-2
    other is in, and has to be heard of within 6 s
    first is told: 0 1
    other is told: nothing
    rebalancing: audit-1 reads 0 1 2 3, audit-2 reads nothing
> heartbeats of first other
    other is told: 2 3
    rebalancing: audit-1 reads 0 1, audit-2 reads 2 3
> heartbeats of first other
    stable: audit-1 reads 0 1, audit-2 reads 2 3

# A process ends, as one that is closed or killed does. Within its session nothing moves, and whoever comes under the name
# has the place at once.

> first ends
    stable: audit-1 reads 0 1, audit-2 reads 2 3
> 5 seconds pass
    stable: audit-1 reads 0 1, audit-2 reads 2 3
> heartbeats of other
    stable: audit-1 reads 0 1, audit-2 reads 2 3
> second joins as audit-1
    second is in, and has to be heard of within 6 s
    second is told: 0 1
    rebalancing: audit-1 reads 0 1, audit-2 reads 2 3
> heartbeats of second other
    stable: audit-1 reads 0 1, audit-2 reads 2 3

# A third comes while the second is there. The second is told so, whatever it tries, and cannot come back.

> third joins as audit-1
    third is in, and has to be heard of within 6 s
    third is told: 0 1
    rebalancing: audit-1 reads 0 1, audit-2 reads 2 3
> second commits 0 at 10
    refused: member `audit-1` was replaced by another process of that name
    rebalancing: audit-1 reads 0 1, audit-2 reads 2 3
> second beats as before
    refused: member `audit-1` was replaced by another process of that name
    rebalancing: audit-1 reads 0 1, audit-2 reads 2 3
> second joins
    refused: another process joined as `audit-1` since
    rebalancing: audit-1 reads 0 1, audit-2 reads 2 3
> third commits 0 at 10
    committed: partition 0 goes on at 10
    rebalancing: audit-1 reads 0 1, audit-2 reads 2 3
> heartbeats of third other
    stable: audit-1 reads 0 1, audit-2 reads 2 3

# The third loses its connection and comes back as itself.

> third loses its connection
    stable: audit-1 reads 0 1, audit-2 reads 2 3
> third joins
    third is in, and has to be heard of within 6 s
    third is told: 0 1
    rebalancing: audit-1 reads 0 1, audit-2 reads 2 3
> heartbeats of third other
    stable: audit-1 reads 0 1, audit-2 reads 2 3

# After a restart of the broker nobody is known, but the later one is: it gets the name, whoever comes first.

> the broker restarts
    empty: nobody is there
> second joins
    second is in, and has to be heard of within 6 s
    second is told: 0 1 2 3
    rebalancing: audit-1 reads 0 1 2 3
> heartbeats of second
    stable: audit-1 reads 0 1 2 3
> third joins
    third is in, and has to be heard of within 6 s
    third is told: 0 1 2 3
    rebalancing: audit-1 reads 0 1 2 3
> second beats as before
    refused: member `audit-1` was replaced by another process of that name
    rebalancing: audit-1 reads 0 1 2 3
> heartbeats of third
    stable: audit-1 reads 0 1 2 3
> third commits 0 at 11
    committed: partition 0 goes on at 11
    stable: audit-1 reads 0 1 2 3

# Nobody comes: the place goes when the session ends.

> third ends
    stable: audit-1 reads 0 1 2 3
> 7 seconds pass
    empty: nobody is there
