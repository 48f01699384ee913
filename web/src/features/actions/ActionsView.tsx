export default function ActionsView() {
  return <h1>Actions</h1>
}
