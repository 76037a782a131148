import Foundation
import HimixCore
import HimixCoreML
import Observation

/// What the screens show: the opened bundle, the picture, and the conversation about it.
@MainActor
@Observable
final class AppModel {
    enum Phase {
        case empty
        case opening(Double)
        case ready(OpenedModel)
    }

    /// A question and its answer as far as it has come.
    struct Turn: Identifiable {
        let id = UUID()
        let question: String
        var answer = ""
    }

    private(set) var phase = Phase.empty
    private(set) var photo: Photo?
    private(set) var turns: [Turn] = []
    private(set) var stats: Stats?
    private(set) var busy = false
    /// What the user has to know about the bundle that is open, or is not.
    private(set) var note: String?
    /// Whether the next question follows the ones before it.
    var continues = false
    var problem: String?

    @ObservationIgnored private var dialogue: Dialogue?
    @ObservationIgnored private var running: Task<Void, Never>?

    var hasProblem: Bool {
        get { problem != nil }
        set { if !newValue { problem = nil } }
    }

    var opened: OpenedModel? {
        if case .ready(let opened) = phase { return opened }
        return nil
    }

    /// The bundle picked last, or else the one that the app came with; not one that ended the app.
    func start() async {
        guard case .empty = phase else { return }
        let interrupted = BundleStore.marker.interrupted
        if let interrupted, let units = interrupted.units {
            BundleStore.units.failed(units, for: interrupted.bundle)
        }
        do {
            let choice = try StartChoice.make(
                picked: BundleStore.picked, shipped: BundleStore.shipped, marker: BundleStore.marker)
            switch choice {
            case .open(let folder, let isShipped, let why):
                note = why
                await open(folder, shipped: isShipped)
            case .wait(let why): note = why
            case .none: break
            }
        } catch {
            note = error.localizedDescription  // nothing is opened unguarded
        }
    }

    /// The picked bundle that was left out, since it had ended the app.
    func openPickedAgain() async {
        guard let picked = BundleStore.picked else { return }
        BundleStore.marker.takeUpPicked()
        note = nil
        await open(picked, shipped: false)
    }

    /// A bundle folder picked in Files: copied into the app, checked, opened. A bad one leaves the old one in place.
    func openPicked(_ folder: URL) async {
        let before = phase
        phase = .opening(0)
        do {
            let copy = try await BundleStore.keep(folder)
            BundleStore.marker.takeUpPicked()
            note = nil
            await open(copy, shipped: false)
        } catch {
            phase = before
            problem = error.localizedDescription
        }
    }

    /// Forget the picked bundle and open the one that the app came with.
    func useShipped() async {
        guard let shipped = BundleStore.shipped else { return }
        BundleStore.forgetPicked()
        note = nil
        await open(shipped, shipped: true)
    }

    func show(_ photo: Photo) {
        stop()
        (self.photo, turns, stats) = (photo, [], nil)
    }

    func ask(_ prompt: String) {
        guard let dialogue, !busy else { return }
        if !continues { turns = [] }
        turns.append(Turn(question: prompt))
        (busy, stats) = (true, nil)
        let picture = photo?.picture
        running = Task {
            await stream(prompt, about: picture, dialogue)
            busy = false
        }
    }

    func stop() {
        running?.cancel()
    }

    private func open(_ folder: URL, shipped: Bool) async {
        stop()
        (phase, dialogue, turns, stats) = (.opening(0), nil, [], nil)  // one model in memory at a time
        do {
            let opened = try await OpenedModel.open(
                folder, shipped: shipped, marker: BundleStore.marker, memory: BundleStore.units
            ) { share in
                Task { @MainActor in self.showProgress(share) }
            }
            dialogue = await Dialogue(opened.session)
            phase = .ready(opened)
        } catch {
            phase = .empty
            problem = error.localizedDescription
        }
    }

    private func showProgress(_ share: Double) {
        if case .opening = phase { phase = .opening(share) }
    }

    private func stream(_ prompt: String, about picture: Picture?, _ dialogue: Dialogue) async {
        guard let turn = turns.last?.id else { return }
        do {
            let pieces = try await dialogue.ask(prompt, about: picture, continuing: continues)
            for try await piece in pieces { say(piece.text, in: turn) }
            let all = await pieces.stats
            if turns.last?.id == turn { stats = all }
        } catch is CancellationError {
            say(" [stopped]", in: turn)
        } catch {
            problem = error.localizedDescription
        }
    }

    /// More of an answer; that of a picture which is shown no more has no turn.
    private func say(_ text: String, in turn: UUID) {
        if let at = turns.firstIndex(where: { $0.id == turn }) { turns[at].answer += text }
    }
}
