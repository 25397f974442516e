// Tests run from TypeScript sources through @swc/jest. Two suites run apart, chosen by HEDDLE_SUITE: stress measures memory and wants the
// process for itself (npm test runs it last, npm run test:stress alone), packaging is slow (npm run test:packaging). `all` hides none.
const apart = { stress: '**/test/stress/**/*.test.ts', packaging: '**/test/process/packaging.test.ts' }
const everything = '**/test/**/*.test.ts'
const suite = process.env.HEDDLE_SUITE ?? 'default'

// Many tests wait for processes of their own; more workers than this would only crowd the ranks of others.
const maxWorkers = suite === 'default' ? Math.min(4, require('node:os').availableParallelism()) : 1

module.exports = {
  maxWorkers,
  testEnvironment: '<rootDir>/test/environment.js',
  testMatch: suite === 'default' ? [everything, ...Object.values(apart).map((glob) => `!${glob}`)] : [apart[suite] ?? everything],
  modulePathIgnorePatterns: ['<rootDir>/build', '<rootDir>/dist', '<rootDir>/prebuilds'],
  transform: {
    '\\.[cm]?ts$': ['@swc/jest', { jsc: { parser: { syntax: 'typescript' }, target: 'es2022' }, module: { type: 'commonjs' } }],
  },
  // a slow machine with other work is no failure: what a test waits for comes, or it hangs
  testTimeout: 300_000,
}
