// Ctrl-C as an AbortSignal: the first one ends what runs in good order, a second one the process.

export function interruptSignal(): AbortSignal {
  const controller = new AbortController()
  process.once('SIGINT', () => controller.abort()) // once: the next one has Node's default effect
  return controller.signal
}
