// The other end of a LineProcess: answers each line of JSON on stdin by one on stdout. A handler that throws answers { error }.
import { createInterface } from 'node:readline'

export type Handlers = Record<string, (question: any) => Promise<object>>

export async function answerLines(handlers: Handlers): Promise<void> {
  for await (const line of createInterface({ input: process.stdin })) {
    process.stdout.write(`${JSON.stringify(await answer(handlers, line))}\n`)
  }
}

async function answer(handlers: Handlers, line: string): Promise<object> {
  try {
    const question = JSON.parse(line)
    const handler = handlers[question.do]
    if (!handler) throw new Error(`expected do: one of ${Object.keys(handlers).join(', ')}, got ${question.do}`)
    return await handler(question)
  } catch (error) {
    return { error: error instanceof Error ? `${error.name}: ${error.message}` : String(error) }
  }
}
