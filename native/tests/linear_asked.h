// `heddle_linear_bench ask MEGABYTES`: times linear layers of any shape, one line of JSON for each line asked on stdin.
//   ceilings            read bandwidth of one core, and its arithmetic peak for every instruction set up to the one in use
//   IN OUT ROWS         one call with bfloat16 weights and inputs: seconds, and how far samples of its result are from double precision
// Weights come from a pool of MEGABYTES of random values and are cold where the pool is larger than the caches.
#pragma once

namespace heddle::test {

int answer_linears(int count, char** arguments);

}  // namespace heddle::test
