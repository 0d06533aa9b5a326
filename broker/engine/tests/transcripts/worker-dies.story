# Ann receives two jobs and dies with them. Nobody else gets them before her leases end; then Bob does, with another
# token and the next attempt's number. What Ann had only prefetched costs no attempt.

> 3 messages arrive
    ready 3, leased 0, delayed 0, dead 0; all below 0 is settled
> ann prefetches 2
    ann has message 0, attempt 1, token 1-1
    ann has message 1, attempt 1, token 1-2
    journal: leased 2 from 0 for 30 s
    ready 1, leased 2, delayed 0, dead 0; all below 0 is settled
> ann starts 0
    done
    journal: started 0
    ready 1, leased 2, delayed 0, dead 0; all below 0 is settled
> bob receives 5
    bob has message 2, attempt 1, token 1-3
    journal: leased 1 from 2 for 30 s, started
    ready 0, leased 3, delayed 0, dead 0; all below 0 is settled
> 29 seconds pass
    ready 0, leased 3, delayed 0, dead 0; all below 0 is settled
> bob acks 2
    done
    journal: settled 1 from 2
    ready 0, leased 2, delayed 0, dead 0; all below 0 is settled
> 2 seconds pass
    journal: returned 0
    journal: returned 1
    ready 0, leased 0, delayed 2, dead 0; all below 0 is settled
> bob receives 5
    bob has message 0, attempt 2, token 1-4
    bob has message 1, attempt 1, token 1-5
    journal: leased 2 from 0 for 30 s, started
    ready 0, leased 2, delayed 0, dead 0; all below 0 is settled
> bob acks 0
    done
    journal: settled 1 from 0
    ready 0, leased 1, delayed 0, dead 0; all below 1 is settled
> bob acks 1
    done
    journal: settled 1 from 1
    ready 0, leased 0, delayed 0, dead 0; all below 3 is settled

# A worker that closes its connection gives back at once what it had not started.

> 2 messages arrive
    ready 2, leased 0, delayed 0, dead 0; all below 3 is settled
> ann prefetches 2
    ann has message 3, attempt 1, token 1-6
    ann has message 4, attempt 1, token 1-7
    journal: leased 2 from 3 for 30 s
    ready 0, leased 2, delayed 0, dead 0; all below 3 is settled
> ann starts 3
    done
    journal: started 3
    ready 0, leased 2, delayed 0, dead 0; all below 3 is settled
> ann disconnects
    journal: returned 4
    ready 0, leased 1, delayed 1, dead 0; all below 3 is settled
> bob receives 1
    bob has message 4, attempt 1, token 1-8
    journal: leased 1 from 4 for 30 s, started
    ready 0, leased 2, delayed 0, dead 0; all below 3 is settled
> bob acks 4
    done
    journal: settled 1 from 4
    ready 0, leased 1, delayed 0, dead 0; all below 3 is settled
> ann acks 3
    done
    journal: settled 1 from 3
    ready 0, leased 0, delayed 0, dead 0; all below 5 is settled
