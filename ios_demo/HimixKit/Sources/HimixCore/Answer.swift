/// An answer as it comes: `for try await piece in answer`. Iterate once. Nothing is computed before it is asked for.
@Inference
public final class Answer {
    /// Complete when the iteration ends.
    public private(set) var stats: Stats

    private let chat: Chat
    private let turn: Int
    private let stopIds: Set<Int>
    private var newIds: [Int]  // to be fed before the next token is chosen
    private var sampler: Sampler
    private let limit: Int
    private var stream: TextStream
    private var stop: StopTexts
    private var ended = false
    private let began: Stopwatch

    init(
        chat: Chat, turn: Int, text: TextProcessor, newIds: [Int], sampler: Sampler, limit: Int, options: AnswerOptions,
        stats: Stats, began: Stopwatch
    ) throws {
        self.turn = turn
        (self.chat, self.newIds, self.sampler, self.limit) = (chat, newIds, sampler, limit)
        (self.stats, self.began) = (stats, began)
        (stream, stop) = (TextStream(text.tokenizer), try StopTexts(options.stop))
        stopIds = options.ignoresStop ? [] : text.stopIds
    }

    /// The next piece; nil when the answer is complete.
    public func next() throws -> Piece? {
        if ended { return nil }
        if stats.newTokens == limit { return end(.length) }
        var clock = Stopwatch()
        let logits = try chat.feed(newIds, turn: turn)
        if stats.newTokens == 0 {
            stats.prefill = clock.lap()
        } else {
            stats.interToken.append(clock.lap())
        }
        chat.said(nil)
        let token = sampler.pick(logits)
        if stopIds.contains(token) { return end(.stop) }
        chat.said(token)
        newIds = [token]
        stats.newTokens += 1
        let said = stream.step(token) + (stats.newTokens == limit ? stream.rest() : "")
        let (text, stopped) = stop.feed(said)
        if !text.isEmpty, stats.ttft == 0 { stats.ttft = began.total() }
        if stopped {
            ended = true
            stats.finishReason = .stop
        }
        return Piece(text: text, tokenId: token)
    }

    /// All of it.
    public func collect() throws -> (tokens: [Int], text: String) {
        var (tokens, text) = ([Int](), "")
        while let piece = try next() {
            if let token = piece.tokenId { tokens.append(token) }
            text += piece.text
        }
        return (tokens, text)
    }

    private func end(_ reason: Stats.FinishReason) -> Piece? {
        ended = true
        stats.finishReason = reason
        let rest = stop.rest()
        return rest.isEmpty ? nil : Piece(text: rest, tokenId: nil)
    }
}

extension Answer: AsyncSequence {
    public struct AsyncIterator: AsyncIteratorProtocol {
        let answer: Answer

        public func next() async throws -> Piece? {
            try Task.checkCancellation()
            return try await answer.next()
        }
    }

    public nonisolated func makeAsyncIterator() -> AsyncIterator { AsyncIterator(answer: self) }
}
