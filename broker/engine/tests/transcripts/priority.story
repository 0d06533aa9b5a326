# The most urgent goes first, among equals the one that came first. Each digit is a message of that priority.

> 40919 arrive
    ready 5, leased 0, delayed 0, dead 0; all below 0 is settled
> ann receives 3
    ann has message 2, attempt 1, token 1-1
    ann has message 4, attempt 1, token 1-2
    ann has message 0, attempt 1, token 1-3
    journal: leased 1 from 2 for 30 s, started
    journal: leased 1 from 4 for 30 s, started
    journal: leased 1 from 0 for 30 s, started
    ready 2, leased 3, delayed 0, dead 0; all below 0 is settled
> bob receives 1
    bob has message 3, attempt 1, token 1-4
    journal: leased 1 from 3 for 30 s, started
    ready 1, leased 4, delayed 0, dead 0; all below 0 is settled

# What comes back stands behind its equals, and who is urgent is looked up again after a crash.

> 09 arrive
    ready 3, leased 4, delayed 0, dead 0; all below 0 is settled
> the broker crashes
    ready 3, leased 4, delayed 0, dead 0; all below 0 is settled
> bob receives 1
    bob has message 6, attempt 1, token 2-1
    journal: leased 1 from 6 for 30 s, started
    ready 2, leased 5, delayed 0, dead 0; all below 0 is settled
> bob releases 6
    done
    journal: returned 6, to wait
    ready 2, leased 4, delayed 1, dead 0; all below 0 is settled
> 2 seconds pass
    ready 3, leased 4, delayed 0, dead 0; all below 0 is settled
> ann receives 1
    ann has message 6, attempt 2, token 2-2
    journal: leased 1 from 6 for 30 s, started
    ready 2, leased 5, delayed 0, dead 0; all below 0 is settled

# Of eight grants one goes to whoever has waited longest: after a crash the count begins anew.

> 99999999 arrive
    ready 10, leased 5, delayed 0, dead 0; all below 0 is settled
> bob receives 6
    bob has message 7, attempt 1, token 2-3
    bob has message 8, attempt 1, token 2-4
    bob has message 9, attempt 1, token 2-5
    bob has message 10, attempt 1, token 2-6
    bob has message 11, attempt 1, token 2-7
    bob has message 1, attempt 1, token 2-8
    journal: leased 5 from 7 for 30 s, started
    journal: leased 1 from 1 for 30 s, started
    ready 4, leased 11, delayed 0, dead 0; all below 0 is settled
> bob receives 1
    bob has message 12, attempt 1, token 2-9
    journal: leased 1 from 12 for 30 s, started
    ready 3, leased 12, delayed 0, dead 0; all below 0 is settled
