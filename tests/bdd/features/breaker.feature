Feature: An engine dies and comes back
  Its tasks are told, no new ones go to it, and it is tried before it is trusted again.

  Scenario: A breaker opens, half-opens and closes, and the other replica serves
    Given an engine with 2 slots
    And an engine with 2 slots
    And the orchestrator runs
    And task "alpha" without an end is sent to replica 0
    And task "beta" without an end is sent to replica 0
    And task "alpha" is read
    And task "beta" is read
    And task "alpha" has its first token
    And task "beta" has its first token
    When engine 0 is killed
    Then task "alpha" fails with "WORKER_RESET"
    And task "beta" fails with "WORKER_RESET"
    And it is told that "chat/0 opens its breaker and gets no tasks"
    And it is told that "chat/0 is down"
    When task "gamma" is sent
    And task "gamma" is read
    Then task "gamma" gets all of its 5 tokens
    And engine 1 was sent "gamma" once
    When task "delta" is sent to replica 0
    Then the answer is 202
    When task "delta" is read
    Then task "delta" fails with "POOL_UNAVAILABLE"
    When engine 0 comes back
    Then it is told that "chat/0 is ready, no longer down"
    And it is told that "chat/0 half-opens its breaker: one task may try it"
    When task "epsilon" is sent to replica 0
    And task "epsilon" is read
    Then task "epsilon" gets all of its 5 tokens
    And it is told that "chat/0 closes its breaker and gets tasks again"
