# A lease that was synced goes on across a crash of the broker, with its token and for a full term.

> 2 messages arrive
    ready 2, leased 0, delayed 0, dead 0; all below 0 is settled
> ann receives 1
    ann has message 0, attempt 1, token 1-1
    journal: leased 1 from 0 for 30 s, started
    ready 1, leased 1, delayed 0, dead 0; all below 0 is settled
> 20 seconds pass
    ready 1, leased 1, delayed 0, dead 0; all below 0 is settled
> the broker crashes
    ready 1, leased 1, delayed 0, dead 0; all below 0 is settled
> 20 seconds pass
    ready 1, leased 1, delayed 0, dead 0; all below 0 is settled
> bob receives 5
    bob has message 1, attempt 1, token 2-1
    journal: leased 1 from 1 for 30 s, started
    ready 0, leased 2, delayed 0, dead 0; all below 0 is settled
> ann acks 0
    done
    journal: settled 1 from 0
    ready 0, leased 1, delayed 0, dead 0; all below 1 is settled

# An ack that was never answered may be lost with its commit. The message is still leased then, and Bob asks again.

> bob acks 1
    done
    journal: settled 1 from 1
    ready 0, leased 0, delayed 0, dead 0; all below 2 is settled
> the broker crashes before that is synced
    ready 0, leased 1, delayed 0, dead 0; all below 1 is settled
> bob acks 1
    done
    journal: settled 1 from 1
    ready 0, leased 0, delayed 0, dead 0; all below 2 is settled

# A grant that was lost with its commit is as if it had not been: another token, the same attempt.

> 1 messages arrive
    ready 1, leased 0, delayed 0, dead 0; all below 2 is settled
> ann receives 1
    ann has message 2, attempt 1, token 3-1
    journal: leased 1 from 2 for 30 s, started
    ready 0, leased 1, delayed 0, dead 0; all below 2 is settled
> the broker crashes before that is synced
    ready 1, leased 0, delayed 0, dead 0; all below 2 is settled
> bob receives 1
    bob has message 2, attempt 1, token 4-1
    journal: leased 1 from 2 for 30 s, started
    ready 0, leased 1, delayed 0, dead 0; all below 2 is settled
> ann acks 2
    refused: stale lease: the message was leased anew since this receipt was given out
    ready 0, leased 1, delayed 0, dead 0; all below 2 is settled
> bob acks 2
    done
    journal: settled 1 from 2
    ready 0, leased 0, delayed 0, dead 0; all below 3 is settled
