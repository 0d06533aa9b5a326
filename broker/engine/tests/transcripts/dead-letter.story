# A message that fails twice is dead: its letter is written in the commit that settles it. The one behind it never waits.

> 2 messages arrive
    ready 2, leased 0, delayed 0, dead 0; all below 0 is settled
> ann receives 1
    ann has message 0, attempt 1, token 1-1
    journal: leased 1 from 0 for 30 s, started
    ready 1, leased 1, delayed 0, dead 0; all below 0 is settled
> ann releases 0
    done
    journal: returned 0, to wait
    ready 1, leased 0, delayed 1, dead 0; all below 0 is settled
> bob receives 1
    bob has message 1, attempt 1, token 1-2
    journal: leased 1 from 1 for 30 s, started
    ready 0, leased 1, delayed 1, dead 0; all below 0 is settled
> bob acks 1
    done
    journal: settled 1 from 1
    ready 0, leased 0, delayed 1, dead 0; all below 0 is settled
> 2 seconds pass
    ready 1, leased 0, delayed 0, dead 0; all below 0 is settled
> ann receives 1
    ann has message 0, attempt 2, token 1-3
    journal: leased 1 from 0 for 30 s, started
    ready 0, leased 1, delayed 0, dead 0; all below 0 is settled
> ann releases 0
    done
    journal: returned 0
    ready 0, leased 1, delayed 0, dead 0; all below 0 is settled
> letters are written
    journal: died 0 after 2 attempts: released in attempt 2 of 2
    ready 0, leased 0, delayed 0, dead 1; all below 2 is settled

# Rejecting does not wait for the last attempt.

> 1 messages arrive
    ready 1, leased 0, delayed 0, dead 1; all below 2 is settled
> ann receives 1
    ann has message 2, attempt 1, token 1-4
    journal: leased 1 from 2 for 30 s, started
    ready 0, leased 1, delayed 0, dead 1; all below 2 is settled
> ann rejects 2
    it goes to the dead letters
    ready 0, leased 1, delayed 0, dead 1; all below 2 is settled
> ann releases 2
    refused: the message is settled already
    ready 0, leased 1, delayed 0, dead 1; all below 2 is settled
> letters are written
    journal: died 2 after 1 attempts: not a picture
    ready 0, leased 0, delayed 0, dead 2; all below 3 is settled

# Redriven, both begin anew at attempt 1, for this group alone.

> redrive
    journal: redriven 0
    journal: redriven 2
    ready 0, leased 0, delayed 2, dead 0; all below 3 is settled
> bob receives 5
    bob has message 0, attempt 1, token 1-5
    bob has message 2, attempt 1, token 1-6
    journal: leased 1 from 0 for 30 s, started
    journal: leased 1 from 2 for 30 s, started
    ready 0, leased 2, delayed 0, dead 0; all below 3 is settled
> bob acks 0
    done
    journal: settled 1 from 0
    ready 0, leased 1, delayed 0, dead 0; all below 3 is settled
> bob acks 2
    done
    journal: settled 1 from 2
    ready 0, leased 0, delayed 0, dead 0; all below 3 is settled
