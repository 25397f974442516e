// The ESM entry re-exports the one CommonJS copy: no second instance of any class or of any state.
export * from './index.js'
