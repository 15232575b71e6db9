Feature: Tasks
  Who sends a task reads its tokens as they come, and may end it at any time.

  Background:
    Given an engine with 1 slot
    And the queue has room for 2 tasks

  Scenario: A task streams from its admission to its end
    Given the orchestrator runs
    When task "alpha" of 40 tokens is sent
    Then the answer is 202
    And it tells where the stream is
    When task "alpha" is read
    Then task "alpha" gets all of its 40 tokens

  Scenario: A task that nobody reads yet runs nevertheless
    Given the orchestrator runs
    When task "alpha" of 10 tokens is sent
    Then engine 0 gets to its end with "alpha"
    When task "alpha" is read
    Then task "alpha" gets all of its 10 tokens

  Scenario: A task has one reader, once
    Given the orchestrator runs
    And task "alpha" without an end is sent
    And task "alpha" is read
    When "/v1/tasks/alpha/stream" is asked for
    Then the answer is 409
    When task "alpha" is cancelled
    Then task "alpha" ends as "cancelled"
    When "/v1/tasks/alpha/stream" is asked for
    Then the answer is 410

  Scenario: A task waits until the engine has a slot for it
    Given the orchestrator runs
    And task "alpha" without an end is sent
    And task "alpha" is read
    When task "beta" is sent
    Then the answer is 202
    And it is at place 0 of the queue
    And task "beta" is "queued"
    When task "alpha" is cancelled
    And task "beta" is read
    Then task "beta" gets all of its 5 tokens

  Scenario: A full queue refuses a task and says when to come again
    Given the orchestrator runs
    And task "alpha" without an end is sent
    And task "beta" is sent
    And task "gamma" is sent
    When task "delta" is sent
    Then the answer is 429
    And it tells when to come again
    When task "alpha" is cancelled
    And task "gamma" is read
    Then task "gamma" gets all of its 5 tokens
    When task "delta" is sent
    Then the answer is 202

  Scenario: Interactive tasks go before batch tasks
    Given the orchestrator runs
    And task "alpha" without an end is sent
    And batch task "beta" is sent
    And task "gamma" is sent
    When task "alpha" is cancelled
    And task "beta" is read
    Then task "beta" gets all of its 5 tokens
    And engine 0 was sent "gamma" before "beta"

  Scenario: A full queue may drop the batch task that waited longest
    Given a full queue drops what waited longest
    And the orchestrator runs
    And task "alpha" without an end is sent
    And batch task "beta" is sent
    And batch task "gamma" is sent
    When task "delta" is sent
    Then the answer is 202
    When task "beta" is read
    Then task "beta" fails with "POOL_UNAVAILABLE"
    And engine 0 never saw "beta"

  Scenario: A deadline passes in the queue
    Given the orchestrator runs
    And task "alpha" without an end is sent
    When task "beta" with 30 ms to its deadline is sent
    And task "beta" is read
    Then task "beta" fails with "DEADLINE_UNMET"
    And engine 0 never saw "beta"

  Scenario: A running task is cancelled
    Given the orchestrator runs
    And task "alpha" without an end is sent
    And task "alpha" is read
    And task "alpha" has its first token
    When task "alpha" is cancelled
    Then the answer is 204
    And task "alpha" ends as "cancelled"
    And engine 0 is free
    When task "alpha" is cancelled
    Then the answer is 204

  Scenario: A waiting task is cancelled
    Given the orchestrator runs
    And task "alpha" without an end is sent
    And task "beta" is sent
    When task "beta" is cancelled
    And task "beta" is read
    Then task "beta" ends as "cancelled"
    And engine 0 never saw "beta"

  Scenario: A client that leaves frees the engine
    Given the orchestrator runs
    And task "alpha" without an end is sent
    And task "alpha" is read
    And task "alpha" has its first token
    When the reader of task "alpha" leaves
    Then engine 0 is free

  Scenario: A client that leaves may come back, where that is allowed
    Given a task goes on when its reader leaves
    And the orchestrator runs
    And task "alpha" of 200 tokens is sent
    And task "alpha" is read
    And task "alpha" has its first token
    When the reader of task "alpha" leaves
    And task "alpha" is read
    Then task "alpha" ends as "length"

  Scenario: What cannot be a task is refused with the field's name
    Given the orchestrator runs
    When task "alpha" of -1 tokens is sent
    Then the answer is 400
    And it says "max_tokens"

  Scenario: A pool that is not there takes no tasks
    Given the orchestrator runs
    When task "alpha" for the pool "chatt" is sent
    Then the answer is 404
    And it says "chatt"

  Scenario: What one engine fails before its first token, another one serves
    Given an engine with 2 slots
    And an engine with 2 slots that refuses every task with 500
    And the orchestrator runs
    And task "alpha" without an end is sent to replica 1
    And task "alpha" is read
    And task "alpha" has its first token
    And task "beta" without an end is sent to replica 0
    When task "gamma" is sent
    And task "gamma" is read
    Then task "gamma" gets all of its 5 tokens
    And it is told that "chat/2 fails task gamma"

  Scenario: An engine that refuses our key is told of once, and so is each task
    Given an engine with 1 slot that refuses every task with 401
    And the orchestrator runs
    When task "alpha" is sent to replica 1
    And task "alpha" is read
    Then task "alpha" fails with "ADAPTER"
    And it is told that "chat/1 fails by its set-up"
