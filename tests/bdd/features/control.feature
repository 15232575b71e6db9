Feature: Pools change while tasks run
  Operators reload and drain pools and look at them; nobody's stream is lost.

  Scenario: A reload under load loses nothing
    Given an engine with 8 slots
    And an engine with 8 slots
    And the orchestrator runs on engine 0
    And 8 tasks of 150 tokens are being read
    When the file of pools names engine 1
    And the pools are reloaded
    Then the answer is 200
    And it is told that "chat/0 takes tasks on generation 2; 8 streams still run"
    When 8 more tasks of 150 tokens are being read
    Then all of the 16 tasks get all of their 150 tokens
    And engine 0 has served 8 tasks
    And engine 1 has served 8 tasks
    And it is told that "chat/0 is drained of generation 1"

  Scenario: A reload that cannot be put in force changes nothing
    Given an engine with 8 slots
    And the orchestrator runs
    And 8 tasks of 100 tokens are being read
    When the file of pools names an adapter that is not there
    And the pools are reloaded
    Then the answer is 409
    And it says "nothing was changed"
    And all of the 8 tasks get all of their 100 tokens
    When task "alpha" is sent
    And task "alpha" is read
    Then task "alpha" gets all of its 5 tokens
    And it is told that "the host keeps its configuration"

  Scenario: A pool is drained
    Given an engine with 2 slots
    And the orchestrator runs
    And task "alpha" of 150 tokens is sent
    And task "alpha" is read
    And task "alpha" has its first token
    When the pool is drained
    Then the answer is 202
    When task "beta" is sent
    Then the answer is 503
    And task "alpha" gets all of its 150 tokens
    And it is told that "chat/0 is drained of generation 1"

  Scenario: One replica is drained, and the other serves
    Given an engine with 2 slots
    And an engine with 2 slots
    And the orchestrator runs
    When replica 0 is drained to its end
    Then the answer is 200
    And nothing was cut
    When 4 more tasks of 10 tokens are being read
    Then all of the 4 tasks get all of their 10 tokens
    And engine 1 has served 4 tasks

  Scenario: A reload undoes no drain, and a request of its own does
    Given an engine with 2 slots
    And an engine with 2 slots
    And the orchestrator runs
    When the pool is drained
    And the pools are reloaded
    Then the answer is 200
    And "POST /v1/pools/chat/reload?undrain=true&replica_id=1" would undo a drain
    When task "alpha" is sent
    Then the answer is 503
    And it says "undrain=true"
    When the drain of replica 1 is undone
    Then the answer is 200
    When 4 more tasks of 10 tokens are being read
    Then all of the 4 tasks get all of their 10 tokens
    And engine 1 has served 4 tasks
    When the drain of the pool is undone
    Then the answer is 200
    And it is told that "chat/0 takes tasks on generation 2"

  Scenario: Capabilities are sent once, until they change
    Given an engine with 2 slots
    And an engine with 3 slots
    And the orchestrator runs on engine 0
    When the capabilities are asked for
    Then the answer is 200
    And replica 0 has 2 slots
    When the capabilities are asked for again
    Then the answer is 304
    When the file of pools names engine 1
    And the pools are reloaded
    And the capabilities are asked for again
    Then the answer is 200
    And replica 0 has 3 slots

  Scenario: What became of a task is explained
    Given an engine with 1 slot
    And an engine with 1 slot that refuses every task with 500
    And the orchestrator runs
    And task "alpha" without an end is sent to replica 0
    And task "alpha" is read
    And task "alpha" has its first token
    And task "beta" is sent
    When task "alpha" is cancelled
    And task "beta" is read
    Then task "beta" gets all of its 5 tokens
    When "/v1/tasks/beta/explain" is asked for
    Then the answer is 200
    And it went to replica 1, then to replica 0

  Scenario: A client's token opens no pools
    Given an engine with 1 slot
    And tokens of the roles "tasks" and "control"
    And the orchestrator runs
    And a client with the token of "tasks"
    When the pool is drained
    Then the answer is 403
    When task "alpha" is sent
    Then the answer is 202
    Given a client with the token of "control"
    When the pool is drained
    Then the answer is 202

  Scenario: Whether tasks should come is told to whoever asks
    Given an engine with 1 slot
    And the orchestrator runs
    When "/readyz" is asked for
    Then the answer is 200
    When replica 0 is drained to its end
    And "/readyz" is asked for
    Then the answer is 503
    When "/healthz" is asked for
    Then the answer is 200
