// What peers written in JavaScript share: a question a line on stdin, {"do": "decode", …}, an answer a line on stdout.
import { createInterface } from 'node:readline'

/** Calls the contender's method of that name for each line, then ends the process, which the libraries' threads would keep. */
export async function answerLines(contender) {
  for await (const line of createInterface({ input: process.stdin })) {
    const command = JSON.parse(line)
    let answer
    try {
      answer = await contender[command.do](command)
    } catch (error) {
      answer = { error: `${error.name}: ${error.message}` }
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`)
  }
  process.exit(0)
}
