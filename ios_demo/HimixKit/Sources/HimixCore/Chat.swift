/// A conversation. Several may exist on one session; the one that speaks takes over the cache.
@Inference
public final class Chat {
    private let session: Session
    private let images: [ImageInput]
    private let system: String?
    private var vision: ImageKV?
    private var history: [Int] = []  // token ids in the cache behind the image
    private var turn = 0  // of the question that is being answered
    private var pending: [Int] = []  // said, but not in the cache yet: the last token of an answer

    init(_ session: Session, images: [ImageInput], system: String?) {
        (self.session, self.images, self.system) = (session, images, system)
    }

    /// The image's keys and values, once the first message was sent.
    public var imageKV: ImageKV? { images.isEmpty ? nil : vision }

    /// Say something and stream the answer; errors as in `Session.generate`.
    public func send(_ prompt: String, options: AnswerOptions = AnswerOptions()) throws -> Answer {
        let began = Stopwatch()
        var stats = Stats()
        let defaults = session.manifest.generation
        let sampler = try Sampler(
            temperature: options.temperature ?? defaults.temperature, topP: options.topP ?? defaults.topP,
            seed: options.seed)
        let limit = options.maxNewTokens ?? defaults.maxNewTokens
        guard limit >= 1 else { throw HimixError("max_new_tokens is \(limit); it must be at least 1") }
        let vision = try self.vision ?? session.vision(images, &stats)
        self.vision = vision
        let used = vision.tokens + history.count
        try session.text.checkLength(prompt, room: session.capacity - used)
        let newIds = try encode(prompt)
        let room = session.capacity - used - newIds.count
        guard room >= 1 else {
            throw HimixError(
                "the prompt does not fit: \(used) cache slots are used, it needs \(newIds.count) and one for an answer, "
                    + "this model's context capacity is \(session.capacity); shorten it or start a new chat")
        }
        (stats.promptTokens, stats.visionTokens) = (newIds.count, vision.tokens)
        turn += 1
        return try Answer(
            chat: self, turn: turn, text: session.text, newIds: newIds, sampler: sampler, limit: min(limit, room),
            options: options, stats: stats, began: began)
    }

    private func encode(_ prompt: String) throws -> [Int] {
        if !history.isEmpty { return pending + (try session.text.encodeNextTurn(prompt)) }
        let system = (system ?? "").isEmpty ? [] : [Message(.system, system!)]
        return try session.text.encodeChat(system + [Message(.user, prompt)])
    }

    /// Append `ids` to the cache; if it holds another conversation, put this one's tokens back first.
    ///
    /// - Throws: `HimixError`: the chat was asked something else since `turn`, or the engine fails.
    func feed(_ ids: [Int], turn: Int) throws -> [Float] {
        guard turn == self.turn else {
            throw HimixError("this answer was left: its chat was asked something else; read an answer before the next")
        }
        var missing = ids
        if session.owner !== self, let vision {
            session.owner = nil
            try session.engine.start(key: vision.key, value: vision.value, position: vision.nextPosition)
            missing = history + ids
        }
        do {
            let logits = try session.engine.step(missing)
            guard logits.count == session.manifest.model.vocabSize, logits.allSatisfy({ $0 < .infinity }) else {
                throw HimixError(
                    "the model's output is not a number for each token; the bundle or the image is damaged")
            }
            session.owner = self
            history += ids
            return logits
        } catch {
            session.owner = nil  // what the cache holds is not known
            throw error
        }
    }

    /// The token that was said last, to be fed with what follows it.
    func said(_ token: Int?) {
        pending = token.map { [$0] } ?? []
    }
}
