// Chat templates: the prompts of the reference, the special tokens, and templates that are wrong or hostile.
import { ChatTemplate, chatTemplateOf, specialTokensOf } from '../../lib/tokenizer/chat-template'
import type { Message } from '../../lib/tokenizer/chat-template'
import { TemplateProcess } from '../../lib/tokenizer/template-process'
import { AutoTokenizer } from '../../lib/tokenizer/tokenizer'
import golden from '../golden/heddle-tiny.json'
import { llama2StyleTokenizer, makeFolder, removeFolder, tinyFolder } from '../support/tokenizer-folders'

const hello: Message[] = [{ role: 'user', content: 'hello' }]

async function render(source: string, variables?: Record<string, unknown>): Promise<string> {
  return new ChatTemplate(source, {}).render(hello, { variables })
}

async function failure(promise: Promise<unknown>): Promise<{ code: string; message: string }> {
  return promise.then(
    (value) => {
      throw new Error(`expected a failure, got ${value}`)
    },
    (error) => error
  )
}

describe('heddle-tiny', () => {
  test('renders and encodes all chats as the reference does', async () => {
    const tokenizer = await AutoTokenizer.fromPretrained(tinyFolder)
    expect(golden.chat).toHaveLength(40)
    for (const { messages, prompt, input_ids: ids } of golden.chat) {
      expect(await tokenizer.applyChatTemplate(messages)).toBe(prompt)
      expect(await tokenizer.encodeChat(messages)).toEqual(ids)
    }
  })

  test('leaves the generation prompt away when told to', async () => {
    const tokenizer = await AutoTokenizer.fromPretrained(tinyFolder)
    expect(await tokenizer.applyChatTemplate(hello, { addGenerationPrompt: false })).toBe('<|im_start|>user\nhello<|im_end|>\n')
  })

  test('keeps concurrent renderings apart', async () => {
    const tokenizer = await AutoTokenizer.fromPretrained(tinyFolder)
    const prompts = await Promise.all(golden.chat.map(({ messages }) => tokenizer.applyChatTemplate(messages)))
    expect(prompts).toEqual(golden.chat.map(({ prompt }) => prompt))
  })
})

describe('where the template comes from', () => {
  const folders: string[] = []
  afterAll(() => folders.forEach(removeFolder))

  async function tokenizerWith(files: Record<string, unknown>) {
    const folder = makeFolder({ 'tokenizer.json': llama2StyleTokenizer(), ...files })
    folders.push(folder)
    return AutoTokenizer.fromPretrained(folder)
  }

  test('tokenizer_config.json as a text, with special tokens as texts or objects', async () => {
    const template = '{{ bos_token }}{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}'
    const tokenizer = await tokenizerWith({
      'tokenizer_config.json': { chat_template: template, bos_token: '<s>', eos_token: { content: '</s>', lstrip: false } }
    })
    expect(await tokenizer.applyChatTemplate([...hello, { role: 'assistant', content: 'loom' }])).toBe('<s>hello</s>loom</s>')
    const ids = await tokenizer.encodeChat(hello)
    expect(ids.filter((id) => id === 1)).toHaveLength(1) // the begin token of the template, not a second one
    expect([ids[0], ids.at(-1)]).toEqual([1, 2])
  })

  test('tokenizer_config.json as a list takes the one named default', async () => {
    const named = [
      { name: 'tool_use', template: 'tools' },
      { name: 'default', template: 'plain' }
    ]
    expect(await (await tokenizerWith({ 'tokenizer_config.json': { chat_template: named } })).applyChatTemplate(hello)).toBe('plain')
    const single = [{ name: 'rag', template: 'only' }]
    expect(await (await tokenizerWith({ 'tokenizer_config.json': { chat_template: single } })).applyChatTemplate(hello)).toBe('only')
  })

  test('chat_template.jinja comes first', async () => {
    const tokenizer = await tokenizerWith({ 'chat_template.jinja': 'file', 'tokenizer_config.json': { chat_template: 'config' } })
    expect(await tokenizer.applyChatTemplate(hello)).toBe('file')
  })

  test('a model without one says so', async () => {
    const tokenizer = await tokenizerWith({})
    expect(tokenizer.hasChatTemplate).toBe(false)
    const expected = { code: 'invalid_argument', message: expect.stringContaining('a chat template') }
    expect(await failure(tokenizer.applyChatTemplate(hello))).toMatchObject(expected)
    expect(await failure(tokenizer.encodeChat(hello))).toMatchObject(expected)
  })

  test.each([
    [[]],
    [{}],
    [5],
    [
      [
        { name: 'a', template: 'x' },
        { name: 'b', template: 'y' }
      ]
    ]
  ])('%j is no template', (value) => {
    expect(() => chatTemplateOf({ config: { chat_template: value } })).toThrow(
      expect.objectContaining({ code: 'corrupt_file', message: expect.stringContaining('tokenizer_config.json') })
    )
  })

  test('special tokens are read from all their forms', () => {
    const additional = ['a', { content: 'b' }, 3]
    const config = { bos_token: '<s>', eos_token: { content: '</s>' }, pad_token: null, additional_special_tokens: additional }
    expect(specialTokensOf(config)).toEqual({ bos_token: '<s>', eos_token: '</s>', additional_special_tokens: ['a', 'b'] })
  })
})

describe('messages', () => {
  const template = new ChatTemplate('{{ messages[0].content }}', {})
  test.each([
    [undefined, 'messages: expected a list of at least one message, got undefined'],
    [[], 'messages: expected a list of at least one message, got an empty array'],
    ['hello', 'messages: expected a list of at least one message, got "hello"'],
    [[null], 'messages[0]: expected an object with role and content, got null'],
    [[{ role: 'user' }], 'messages[0].content: expected a text, got undefined'],
    [[...hello, { role: '', content: 'x' }], 'messages[1].role: expected a text, got ""'],
    [[...hello, { role: 'user', content: ['x'] }], 'messages[1].content: expected a text, got an array of 1']
  ])('%j is refused', async (messages, message) => {
    expect(await failure(template.render(messages as Message[]))).toMatchObject({ code: 'invalid_argument', message })
  })

  test('cannot be replaced by variables, nor can the special tokens', async () => {
    const source = '{{ messages[0].content }} {{ bos_token }} {{ add_generation_prompt }} {{ mode }}'
    const variables = { messages: [{ role: 'user', content: 'other' }], bos_token: 'other', add_generation_prompt: 'other', mode: 'fast' }
    expect(await new ChatTemplate(source, { bos_token: '<s>' }).render(hello, { variables })).toBe('hello <s> true fast')
  })

  test('are data, not templates', async () => {
    const content = "{{ 1 + 1 }}{% raise_exception('x') %}"
    expect(await template.render([{ role: 'user', content }])).toBe(content)
  })

  test('values that are no plain data are refused', async () => {
    expect(await failure(render('x', { callback: () => 1 }))).toMatchObject({ code: 'invalid_argument' })
    expect(await render('still {{ 1 }}')).toBe('still 1')
  })
})

describe('what templates use', () => {
  test.each([
    ["{% if messages[0]['role'] == 'user' %}yes{% endif %}", 'yes'],
    ['{%- for m in messages %}\n  {{- m.role }}{{ loop.last }}\n{%- endfor %}', 'usertrue'],
    ['{{ messages | tojson }}', '[{"role": "user", "content": "hello"}]'],
    ['{{ messages[0].content | upper | trim }}', 'HELLO'],
    ['{% set ns = namespace(n=0) %}{% for i in range(3) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}', '3'],
    ["{{ messages[0].content.split('l')[0] }}", 'he'],
    ['{% if tools %}tools{% else %}none{% endif %}', 'none'],
    ['{{ "a" if missing is defined else "b" }}', 'b'],
    ['{% for i in range(9) %}{% if i > 1 %}{% break %}{% endif %}{{ i }}{% endfor %}', '01'],
    ['end of file\n', 'end of file']
  ])('%s', async (source, expected) => {
    expect(await render(source)).toBe(expected)
  })

  test('strftime_now gives the date of today', async () => {
    expect(await render('{{ strftime_now("%Y-%m-%d") }}')).toMatch(/^20\d\d-\d\d-\d\d$/)
  })

  test('raise_exception gives its own text', async () => {
    const error = await failure(render("{{ raise_exception('Only user and assistant roles are supported!') }}"))
    expect(error).toMatchObject({ code: 'invalid_argument', message: 'chat template: Only user and assistant roles are supported!' })
  })

  const wrong = ['{% for %}', '{{ ', '{% if x %}', '{{ nothing() }}', '{{ messages[0].content | no_such_filter }}']
  test.each(wrong)('%s is an error of the template', async (source) => {
    const expected = { name: 'HeddleError', code: 'invalid_argument', message: expect.stringMatching(/^chat template: ./) }
    expect(await failure(render(source))).toMatchObject(expected)
  })
})

describe('the fault wall', () => {
  const functions = ['range', 'raise_exception', 'strftime_now']
  const subjects = [...functions, "''", '[]', '{}', '1', 'messages', 'messages[0]', 'namespace()', 'loop', 'self']
  const names = ['constructor', '__proto__', 'prototype', '__class__', '__globals__', 'caller', '__defineGetter__', 'process']
  const escapes = subjects.flatMap((subject) => names.flatMap((name) => [`${subject}.${name}`, `${subject}['${name}']`]))
  const calls = [
    "''.constructor.constructor('return process')()",
    "range.constructor('return process.pid')()",
    "(messages | map(attribute='constructor') | list)[0]",
    "messages | selectattr('constructor') | list | length",
    "messages[0] | attr('constructor')",
    "namespace(__proto__={'x': 1}).x.constructor",
    "messages.map('constructor')",
    'global.process.exit()',
    "require('fs')"
  ]

  test('nothing of JavaScript can be reached', async () => {
    expect(escapes.length + calls.length).toBeGreaterThan(100)
    for (const expression of [...escapes, ...calls]) {
      const text = await render(`{{ ${expression} }}`).catch((error) => {
        expect(error).toMatchObject({ code: 'invalid_argument' })
        return ''
      })
      expect([expression, text]).toEqual([expression, expect.not.stringMatching(/function|native code|\[object|=>|pid/)])
      expect([expression, await render(`{{ (${expression}) is callable }}`).catch(() => 'false')]).toEqual([expression, 'false'])
    }
  })

  test('what can be called is seen as such', async () => {
    for (const name of functions) expect(await render(`{{ ${name} is callable }}`)).toBe('true')
  })

  test('one rendering leaves nothing behind for the next', async () => {
    await render("{% set leaked = 1 %}{% set ns = namespace(__proto__=5) %}{% set x = {'__proto__': {'leaked': 2}} %}x")
    expect(await render('{{ leaked is defined }} {{ {}.leaked is defined }} {{ messages[0].leaked is defined }}')).toBe('false false false')
  })

  const grow = (count: number, end: string) =>
    `{% set ns = namespace(s="aaaaaaaaaaaaaaaa") %}{% for i in range(${count}) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ${end} }}`
  test.each([
    ['a long loop', '{% for i in range(1000000000) %}{% endfor %}'],
    ['nested loops', '{% for i in range(5000) %}{% for j in range(5000) %}{{ i * j }}{% endfor %}{% endfor %}'],
    ['endless recursion', '{% macro f(x) %}{{ f(x) }}{{ f(x) }}{% endmacro %}{{ f(1) }}'],
    ['a text that doubles', grow(40, 'ns.s | length')],
    ['a text made longer in one step', grow(22, `ns.s | replace("a", "${'b'.repeat(50)}") | length`)],
    ['a text cut into pieces', grow(22, 'ns.s.split("a") | length')],
    ['a list that doubles', '{% set ns = namespace(s=[1, 2]) %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}{% endfor %}'],
    ['a huge indent', '{{ [[1]] | tojson(indent=400000000) | length }}'],
    ['a long output', grow(21, 'ns.s')],
    ['deep nesting', `{{ ${'('.repeat(100_000)}1${')'.repeat(100_000)} }}`]
  ])('%s ends with an error and the next template renders', async (_, source) => {
    const error = await failure(render(source))
    expect(error).toMatchObject({ name: 'HeddleError', message: expect.stringMatching(/^chat template: ./) })
    expect(['timeout', 'out_of_memory', 'invalid_argument']).toContain(error.code)
    expect(await render('{{ messages[0].content }}')).toBe('hello')
  })

  test('time and memory limits have codes of their own', async () => {
    const renderer = new TemplateProcess({ timeMs: 50 })
    const error = await failure(renderer.render('{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}', {}))
    expect(error).toMatchObject({ code: 'timeout', message: 'chat template: expected a result within 50 ms, got none' })
    const roomy = new TemplateProcess({ timeMs: 10_000, memoryMb: 32 })
    expect(await failure(roomy.render(grow(22, 'ns.s.split("a") | length'), {}))).toMatchObject({ code: 'out_of_memory' })
    renderer.stop()
    roomy.stop()
  })

  test('a renderer that was stopped starts again', async () => {
    const renderer = new TemplateProcess()
    expect(await renderer.render('{{ n }}', { n: 1 })).toBe('1')
    renderer.stop()
    renderer.stop()
    expect(await renderer.render('{{ n }}', { n: 2 })).toBe('2')
    renderer.stop()
  })
})
