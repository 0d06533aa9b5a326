# A receipt works until its message is settled or leased anew, even when its lease is over.

> 2 messages arrive
    ready 2, leased 0, delayed 0, dead 0; all below 0 is settled
> ann receives 1
    ann has message 0, attempt 1, token 1-1
    journal: leased 1 from 0 for 30 s, started
    ready 1, leased 1, delayed 0, dead 0; all below 0 is settled
> 31 seconds pass
    journal: returned 0
    ready 1, leased 0, delayed 1, dead 0; all below 0 is settled
> ann extends 0
    done
    journal: extended 0
    ready 1, leased 1, delayed 0, dead 0; all below 0 is settled
> 31 seconds pass
    journal: returned 0
    ready 1, leased 0, delayed 1, dead 0; all below 0 is settled
> ann acks 0
    done
    journal: settled 1 from 0
    ready 1, leased 0, delayed 0, dead 0; all below 1 is settled
> ann acks 0
    done before
    ready 1, leased 0, delayed 0, dead 0; all below 1 is settled
> ann releases 0
    refused: the message is settled already
    ready 1, leased 0, delayed 0, dead 0; all below 1 is settled

# Leased anew, the old receipt has no effect any more.

> ann receives 1
    ann has message 1, attempt 1, token 1-2
    journal: leased 1 from 1 for 30 s, started
    ready 0, leased 1, delayed 0, dead 0; all below 1 is settled
> 31 seconds pass
    journal: returned 1
    ready 0, leased 0, delayed 1, dead 0; all below 1 is settled
> bob receives 1
    bob has message 1, attempt 2, token 1-3
    journal: leased 1 from 1 for 30 s, started
    ready 0, leased 1, delayed 0, dead 0; all below 1 is settled
> ann acks 1
    refused: stale lease: the message was leased anew since this receipt was given out
    ready 0, leased 1, delayed 0, dead 0; all below 1 is settled
> ann releases 1
    refused: stale lease: the message was leased anew since this receipt was given out
    ready 0, leased 1, delayed 0, dead 0; all below 1 is settled
> bob acks 1
    done
    journal: settled 1 from 1
    ready 0, leased 0, delayed 0, dead 0; all below 2 is settled
